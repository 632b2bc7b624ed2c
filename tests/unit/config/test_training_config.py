"""training_config.yaml: bundled bases, templates, and every wrong value named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import get_current_model, get_training_config
from config.training import BUNDLED_CONFIG, load_training_config
from schemas.errors import ConfigurationError, UnknownBaseModel

Change = Callable[[dict[str, Any]], object]


def changed(tmp_path: Path, change: Change) -> Path:
    content = yaml.safe_load(BUNDLED_CONFIG.read_text(encoding="utf-8"))
    change(content)
    file = tmp_path / "training_config.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


def test_bundled_file_has_the_bases_and_numbers_of_the_design() -> None:
    config = get_training_config()
    assert get_current_model() == config.current_model == "qwen2.5-14b-instruct"
    assert {"qwen2.5-14b-instruct", "llama3.1-8b", "gemma3-270m"} <= set(config.base_models)
    training = config.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (3, 4, 5e-5)
    assert training.max_seq_length == 512
    assert (training.lora.rank, training.lora.alpha, training.lora.dropout) == (16, 32, 0.05)
    assert config.quantization == "q8_0"


def test_model_folder_is_put_into_the_templates(tmp_path: Path) -> None:
    base = get_training_config().base("llama3.1-8b", tmp_path)
    assert base.hf_path == tmp_path / "llama3.1-8b" / "hf"
    assert base.gguf_path.is_relative_to(tmp_path)


def test_no_bundled_base_has_its_gguf_file_where_safetensors_are_written(tmp_path: Path) -> None:
    config = get_training_config()
    bases = [config.base(key, tmp_path) for key in config.base_models]
    assert not [base.key for base in bases if base.gguf_path.is_relative_to(base.hf_path)]


def test_bases_own_numbers_go_before_the_general_ones() -> None:
    config = get_training_config()
    own = config.parameters("gemma3-270m")
    assert own.epochs == 7 and own.lora.dropout == 0.0
    assert own.lora.rank == config.training.lora.rank
    assert config.memories_of("gemma3-270m") == 1
    assert config.memories_of("llama3.1-8b") == config.memories


def test_unknown_base_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    config = get_training_config()
    with pytest.raises(UnknownBaseModel, match="gemma3-270m"):
        config.base("gpt-17", tmp_path)
    with pytest.raises(UnknownBaseModel):
        config.parameters("../x")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(current_model="nope"), ["current_model", "nope"]),
        (lambda c: c["training"].update(epochs=0), ["training.epochs", "0"]),
        (lambda c: c["training"].update(epochs="three"), ["training.epochs", "three"]),
        (lambda c: c["training"].update(epoch=3), ["training.epoch"]),
        (lambda c: c["training"]["lora"].update(rank=9999), ["training.lora.rank", "9999"]),
        (lambda c: c.update(quantization="q1"), ["quantization", "q1"]),
        (lambda c: c["prompt_template"].update(zh="你好"), ["prompt_template.zh"]),
        (lambda c: c["base_models"]["llama3.1-8b"].update(chat_format="x"), ["chat_format"]),
        (
            lambda c: c["base_models"]["llama3.1-8b"].update(training={"epochs": -1}),
            ["base_models.llama3.1-8b", "epochs", "-1"],
        ),
        (lambda c: c.pop("base_models"), ["base_models"]),
        (lambda c: c.update(extra=1), ["extra"]),
    ],
)
def test_wrong_value_is_refused_with_its_name(
    tmp_path: Path, change: Change, named: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_training_config(changed(tmp_path, change))
    assert all(word in caught.value.message for word in named), caught.value.message


@pytest.mark.parametrize("content", [b"", b"- 1", b"a: [", b"\xff\xfe"])
def test_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "training_config.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"training_config\.yaml"):
        load_training_config(file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_training_config(tmp_path / "none.yaml")
