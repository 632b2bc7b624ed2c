"""Which bases are refused before any training, by GGUF header and config.json alone."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from pipeline.weights.architectures import ARCHITECTURES, architecture_of, check_architecture
from schemas.errors import AdapterUnsupported
from schemas.training import BaseModelSpec

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
GGUF_SIZES = {"block_count": 2, "embedding_length": 16, "attention.head_count": 4}
_U32_TYPE, _STRING_TYPE = 4, 8


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(path: Path, architecture: str, **numbers: int) -> None:
    """Write a GGUF file without tensors, byte by byte after ggml's docs/gguf.md."""
    pairs = [text("general.architecture") + struct.pack("<I", _STRING_TYPE) + text(architecture)]
    for name, number in numbers.items():
        key = text(f"{architecture}.{name}")
        pairs.append(key + struct.pack("<II", _U32_TYPE, number))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))


class Base:
    """A base model's folder, as an operator fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = BaseModelSpec(
            key="b",
            name="b",
            hf_path=folder / "hf",
            gguf_path=folder / "b.gguf",
            chat_format="chatml",
        )

    def put_config(self, config: Any) -> None:
        (self.folder / "hf").mkdir(exist_ok=True)
        content = config if isinstance(config, str) else json.dumps(config)
        (self.folder / "hf" / "config.json").write_text(content)

    def put_gguf(self, architecture: str, **numbers: int) -> None:
        write_gguf(self.spec.gguf_path, architecture, **numbers)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base(tmp_path)


def test_known_families_are_those_whose_bytes_are_compared() -> None:
    expected = ["gemma2", "gemma3", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"]
    assert sorted(ARCHITECTURES) == expected
    moved = [name for name in ARCHITECTURES if architecture_of(name).permuted]
    assert sorted(moved) == ["llama", "mistral"]


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_known_family_passes_with_its_gguf(base: Base, model_type: str) -> None:
    own = {"text_config": SIZES} if model_type == "gemma3" else SIZES
    base.put_config({"model_type": model_type} | own)
    base.put_gguf(ARCHITECTURES[model_type].name, **GGUF_SIZES)
    check_architecture(base.spec)


@pytest.mark.parametrize("architecture", sorted({a.name for a in ARCHITECTURES.values()}))
def test_known_gguf_passes_alone(base: Base, architecture: str) -> None:
    base.put_gguf(architecture)
    check_architecture(base.spec)


@pytest.mark.parametrize(
    "model_type", ["mixtral", "qwen2_moe", "qwen3_moe", "gemma", "gemma3n_text", "phi", "phimoe"]
)
def test_unknown_family_is_refused_by_its_config(base: Base, model_type: str) -> None:
    base.put_config({"model_type": model_type})
    with pytest.raises(AdapterUnsupported, match=f"'{model_type}'.*choose a base of Llama"):
        check_architecture(base.spec)


@pytest.mark.parametrize("architecture", ["qwen2moe", "gemma", "phi2", "falcon", "unknown"])
def test_unknown_family_is_refused_by_its_gguf(base: Base, architecture: str) -> None:
    base.put_gguf(architecture)
    with pytest.raises(AdapterUnsupported, match=architecture):
        check_architecture(base.spec)


def test_mixture_of_experts_under_llamas_name_is_refused(base: Base) -> None:
    """Mixtral's GGUF has `llama` as its architecture."""
    base.put_gguf("llama", expert_count=8)
    with pytest.raises(AdapterUnsupported, match="experts"):
        check_architecture(base.spec)


def test_gguf_of_another_family_is_refused(base: Base) -> None:
    base.put_config({"model_type": "qwen2"})
    base.put_gguf("llama")
    with pytest.raises(AdapterUnsupported, match=r"hf_path is qwen2 and its gguf_path llama"):
        check_architecture(base.spec)


@pytest.mark.parametrize("name", GGUF_SIZES)
def test_gguf_of_another_size_is_refused(base: Base, name: str) -> None:
    base.put_config({"model_type": "qwen2"} | SIZES)
    base.put_gguf("qwen2", **(GGUF_SIZES | {name: 99}))
    with pytest.raises(AdapterUnsupported, match="99"):
        check_architecture(base.spec)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"llama"', "{}"])
def test_config_without_a_model_type_is_refused(base: Base, content: str) -> None:
    base.put_config(content)
    with pytest.raises(AdapterUnsupported):
        check_architecture(base.spec)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\3\0\0\0", b"not a model at all"])
def test_file_that_is_not_gguf_is_refused(base: Base, content: bytes) -> None:
    base.spec.gguf_path.write_bytes(content)
    with pytest.raises(AdapterUnsupported, match=r"b\.gguf is no whole GGUF file"):
        check_architecture(base.spec)


def test_missing_files_are_left_to_load_base(base: Base) -> None:
    """`load_base` says which paths it looked at."""
    check_architecture(base.spec)


def test_weights_in_the_layout_of_earlier_releases_are_checked(base: Base) -> None:
    """There they are in the base model's folder, beside its GGUF file."""
    (base.folder / "config.json").write_text('{"model_type": "mixtral"}')
    base.put_gguf("llama")
    with pytest.raises(AdapterUnsupported, match="mixtral"):
        check_architecture(base.spec)
