"""Every supported family of base models, in a size that is made in a moment."""

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

# The sizes of a language model of any family: it is made and trained within a second.
TINY_SIZES = {
    "vocab_size": 130,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
}

_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
# The families' own ids exceed the tiny vocabulary.
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
# The language model's linear layers in all families; those of a vision tower are left out.
LANGUAGE_LAYERS = (
    r"^(?!.*(vision|projector)).*\.(q_proj|k_proj|v_proj|o_proj|qkv_proj"
    r"|gate_proj|up_proj|down_proj|gate_up_proj)$"
)


def configs() -> dict[str, PretrainedConfig]:
    """Return a fresh configuration of each family."""
    sizes: dict[str, Any] = TINY_SIZES | _ENDS
    phi = {key: value for key, value in sizes.items() if key != "head_dim"}
    # head_dim differs from hidden_size / heads, as in the real models.
    wide = sizes | {"head_dim": 8}
    return {
        "llama": LlamaConfig(**sizes),
        "llama tied": LlamaConfig(**sizes, tie_word_embeddings=True),
        "mistral": MistralConfig(**wide),
        "qwen2": Qwen2Config(**sizes),
        "qwen3": Qwen3Config(**wide),
        "gemma2": Gemma2Config(**wide),
        "gemma3_text": Gemma3TextConfig(**wide),
        "gemma3": Gemma3Config(text_config=wide, vision_config=_VISION, mm_tokens_per_image=4),
        "phi3": Phi3Config(**phi),
    }


def make_model(config: PretrainedConfig) -> Any:
    """Return a random model, the same at every call."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    model.config.architectures = [type(model).__name__]
    return model


def adapt(model: Any, **lora: Any) -> PeftModel:
    """Put a LoRA with a random B on a model, so that it changes the output."""
    shape: dict[str, Any] = {"r": 2, "lora_alpha": 6, "target_modules": LANGUAGE_LAYERS}
    peft: PeftModel = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(shape | lora)))
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    return peft
