"""A tiny language model with random weights: trained in a second, served by llama.cpp.

It has the tokenizer of SmolLM2, read from the packaged GGUF file, and a few MB of weights. Its way
from answers to a served model is that of every base, conversion included.
"""

from pathlib import Path

import gguf
import numpy as np
import yaml

from config.training import BUNDLED_CONFIG
from embedded.bases import install_base
from pipeline.training.base_conversion import convert_gguf
from tests.models.random_weights import write_adapter

KEY = "tiny"
_WIDTH, _HIDDEN, _LAYERS, _HEADS = 64, 128, 2, 4
_SIZES = {
    "llama.block_count": _LAYERS,
    "llama.embedding_length": _WIDTH,
    "llama.feed_forward_length": _HIDDEN,
    "llama.attention.head_count": _HEADS,
    "llama.attention.head_count_kv": _HEADS,
    "llama.rope.dimension_count": _WIDTH // _HEADS,
}
_CHAT_TEMPLATE = "tokenizer.chat_template"
_TINY = {
    "name": "Tiny",
    "hf_path": "{{model_dir}}/tiny/hf",
    "gguf_path": "{{model_dir}}/tiny/tiny.gguf",
    "description": "Random weights, for the fault campaign.",
    "chat_format": "chatml",
    # Batches of two, so that a batch that runs out of memory can be halved.
    "training": {"epochs": 4, "batch_size": 2, "learning_rate": 1e-3, "lora": {"rank": 2}},
    "memories": 1,
}


def make_tiny_base(folder: Path) -> Path:
    """Write the model, its safetensors and a training configuration; return the last one's path."""
    target = tiny_gguf(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tiny_gguf(install_base("smollm2-135m-instruct", folder), target)
    convert_gguf(target, folder / KEY / "hf")
    configuration = folder / "training_config.yaml"
    whole = yaml.safe_load(BUNDLED_CONFIG.read_text(encoding="utf-8"))
    whole |= {"current_model": KEY, "base_models": {KEY: _TINY}}
    configuration.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return configuration


def tiny_gguf(folder: Path) -> Path:
    """Return the path of the GGUF below a model folder."""
    return folder / KEY / f"{KEY}.gguf"


def write_tiny_gguf(tokenizer: Path, target: Path, chat_template: str | None = None) -> None:
    """Write the model with another GGUF's tokenizer, and its chat template unless one is given."""
    source = gguf.GGUFReader(tokenizer)
    changed = _SIZES | ({} if chat_template is None else {_CHAT_TEMPLATE: chat_template})
    writer = gguf.GGUFWriter(target, "llama")
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        value = changed.get(field.name, field.contents())
        if field.name == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_F16)
        part = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, kind, sub_type=part)
    vocabulary = len(source.fields["tokenizer.ggml.tokens"].data)
    random = np.random.default_rng(1)
    for name, shape in _shapes(vocabulary).items():
        value = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.05, shape)
        # llama.cpp keeps the vectors of its norms in F32.
        writer.add_tensor(name, value.astype(np.float32 if len(shape) == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tiny_adapter(target: Path) -> None:
    """Write a LoRA adapter that fits the model, as GGUF."""
    names = [f"blk.{layer}.attn_output.weight" for layer in range(_LAYERS)]
    targets = dict.fromkeys(names, (_WIDTH, _WIDTH))
    write_adapter(target, targets, seed=2, rank=2, spread=(0.05, 0.05), dtype=np.float32)


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, _WIDTH),
        "output_norm.weight": (_WIDTH,),
    }
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"{block}.{name}.weight"] = (_WIDTH,)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"{block}.{name}.weight"] = (_WIDTH, _WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            shapes[f"{block}.{name}.weight"] = (_HIDDEN, _WIDTH)
        shapes[f"{block}.ffn_down.weight"] = (_WIDTH, _HIDDEN)
    return shapes
