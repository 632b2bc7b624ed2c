"""From an adapter on the disk, peft and llama.cpp read what was trained."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save
from transformers import Gemma3TextConfig, LlamaConfig, PretrainedConfig, Qwen2Config

from pipeline.storage.files import hash_file, write_file
from pipeline.storage.folders import seal_folder
from pipeline.storage.manifests import sealed_files
from pipeline.training.adapter_export import export_gguf, save_peft
from schemas.errors import AdapterUnsupported
from schemas.training import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tests.models.tiny_families import TINY_SIZES, adapt, make_model

# peft asks transformers for a name that transformers is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CONFIGS: dict[str, type[PretrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "gemma3": Gemma3TextConfig,
}


def adapted(config: PretrainedConfig, **lora: Any) -> PeftModel:
    """Return a tiny random model with a LoRA on all linear layers, as the recipe makes it."""
    return adapt(make_model(config), **({"target_modules": "all-linear"} | lora))


def exported(folder: Path, config: PretrainedConfig) -> tuple[dict[str, Any], gguf.GGUFReader]:
    """Export a tiny adapter; return peft's tensors and a reader of the GGUF."""
    save_peft(adapted(config), folder)
    return load_file(folder / ADAPTER_WEIGHTS), gguf.GGUFReader(export_gguf(folder, config))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_matrix_arrives_in_f16_under_llama_cpps_name(tmp_path: Path, family: str) -> None:
    """A block has seven adapted layers with A and B each, in peft's shapes."""
    tensors, reader = exported(tmp_path, CONFIGS[family](**TINY_SIZES))
    assert reader.fields["general.architecture"].contents() == family
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == 6.0
    assert len(reader.tensors) == len(tensors) == 2 * 7 * 2
    assert {t.tensor_type for t in reader.tensors} == {gguf.GGMLQuantizationType.F16}
    found = {t.name: t.data for t in reader.tensors}
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"
    for side in "AB":
        expected = tensors[key.format(side)].astype(np.float16)
        np.testing.assert_array_equal(found[f"blk.1.ffn_down.weight.lora_{side.lower()}"], expected)


@pytest.mark.parametrize(
    ("family", "moved"), [("llama", True), ("qwen2", False), ("gemma3", False)]
)
def test_only_llamas_q_and_k_rows_change_places(tmp_path: Path, family: str, moved: bool) -> None:
    """Row (half, place) of a head becomes row (place, half), as in llama.cpp's converter."""
    tensors, reader = exported(tmp_path, CONFIGS[family](**TINY_SIZES))
    found = {t.name: np.asarray(t.data) for t in reader.tensors}
    for layer, name, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        key = f"base_model.model.model.layers.0.self_attn.{layer}.lora_B.weight"
        rows = tensors[key].astype(np.float16)
        if moved:
            # Written out by hand for heads of 4 rows: 0 1 | 2 3 becomes 0 2 1 3.
            order = [4 * head + place for head in range(heads) for place in (0, 2, 1, 3)]
            rows = rows[order]
        np.testing.assert_array_equal(found[f"blk.0.{name}.weight.lora_b"], rows)
    value = "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"
    np.testing.assert_array_equal(
        found["blk.0.attn_v.weight.lora_b"], tensors[value].astype(np.float16)
    )


def test_peft_reads_its_folder_back(tmp_path: Path) -> None:
    """A model with the adapter loaded gives the logits of the one that was saved."""
    config = LlamaConfig(**TINY_SIZES)
    model = adapted(config).eval()
    save_peft(model, tmp_path)
    again = PeftModel.from_pretrained(make_model(config), tmp_path).eval()
    ids = torch.arange(8)[None]
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    """All files have the same hashes, by which a version is identified."""
    hashes = []
    for name in ("one", "two"):
        folder = tmp_path / name
        save_peft(adapted(Qwen2Config(**TINY_SIZES)), folder)
        export_gguf(folder, Qwen2Config(**TINY_SIZES))
        hashes.append({path.name: hash_file(path) for path in folder.iterdir()})
    assert hashes[0] == hashes[1]


def contribution(reader: gguf.GGUFReader, name: str) -> Any:
    """Return what llama.cpp adds to a weight: alpha / rank * B A, with the tensor's own rank."""
    found = {t.name: np.asarray(t.data, dtype=np.float32) for t in reader.tensors}
    a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
    return reader.fields["adapter.lora.alpha"].contents() / a.shape[0] * (b @ a)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 4, "down_proj": 1}},
        {"alpha_pattern": {"q_proj": 8, "layers.1.mlp.down_proj": 1}},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"down_proj": 5}},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 5}, "use_rslora": True},
    ],
    ids=lambda lora: "+".join(lora),
)
def test_what_llama_cpp_adds_is_what_peft_adds(tmp_path: Path, lora: dict[str, Any]) -> None:
    """Also for rsLoRA and for ranks and alphas of single layers, which llama.cpp ignores."""
    config = Qwen2Config(**TINY_SIZES)
    model = adapted(config, **lora)
    save_peft(model, tmp_path)
    reader = gguf.GGUFReader(export_gguf(tmp_path, config))
    layers = model.base_model.model.model.layers
    for number, layer in enumerate(layers):
        for linear, name in (
            (layer.self_attn.q_proj, "attn_q"),
            (layer.self_attn.o_proj, "attn_output"),
            (layer.mlp.down_proj, "ffn_down"),
        ):
            expected = linear.get_delta_weight("default").detach().numpy()
            found = contribution(reader, f"blk.{number}.{name}.weight")
            np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


def reconfigure(folder: Path, changed: dict[str, Any]) -> None:
    """Change a saved adapter's configuration, and seal the folder again."""
    path = folder / ADAPTER_CONFIG
    text = json.dumps(json.loads(path.read_text()) | changed)
    sha256 = write_file(path, text.encode())
    seal_folder(folder, sealed_files(folder) | {ADAPTER_CONFIG: sha256})


@pytest.mark.parametrize(
    "changed",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"layer_replication": [[0, 2]]},
        {"target_parameters": ["mlp.weight"]},
        {"alora_invocation_tokens": [1]},
        {"fan_in_fan_out": True},
        {"init_lora_weights": "pissa"},
        {"peft_type": "VERA"},
        {"lora_alpha": 0},
        {"a_kind_of_next_year": {"on": 1}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_llama_cpp_would_ignore_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    """An adapter that would load but compute something else is never written."""
    config = LlamaConfig(**TINY_SIZES)
    save_peft(adapted(config), tmp_path)
    reconfigure(tmp_path, changed)
    with pytest.raises(AdapterUnsupported):
        export_gguf(tmp_path, config)
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize(
    ("key", "refused"),
    [
        ("base_model.model.lm_head.lora_{}.weight", "lm_head"),
        ("base_model.model.model.embed_tokens.lora_embedding_{}", "embed_tokens"),
        ("base_model.model.model.vision_tower.layers.0.q_proj.lora_{}.weight", "vision_tower"),
    ],
)
def test_tensors_without_a_form_of_their_own_are_refused(
    tmp_path: Path, key: str, refused: str
) -> None:
    """A tied head is the embedding, and llama.cpp's language model has no vision tower."""
    config = LlamaConfig(**TINY_SIZES, tie_word_embeddings=True)
    save_peft(adapted(config), tmp_path)
    tensors = load_file(tmp_path / ADAPTER_WEIGHTS)
    size = {"A": (2, 16), "B": (16, 2)}
    tensors |= {key.format(side): np.ones(size[side], np.float32) for side in "AB"}
    sha256 = write_file(tmp_path / ADAPTER_WEIGHTS, save(tensors))
    seal_folder(tmp_path, sealed_files(tmp_path) | {ADAPTER_WEIGHTS: sha256})
    with pytest.raises(AdapterUnsupported, match=refused):
        export_gguf(tmp_path, config)


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    """A wrong guess about the order of its rows would go unnoticed."""
    config = LlamaConfig(**TINY_SIZES)
    save_peft(adapted(config), tmp_path)
    config.model_type = "newcomer"
    with pytest.raises(AdapterUnsupported, match="newcomer"):
        export_gguf(tmp_path, config)
