"""LoRA on a base model: where rank, alpha, dropout and target modules are applied.

Each linear layer y = W x of the base becomes

    y = W x + (alpha / rank) * B A dropout(x)

with W [out, in] frozen, A [rank, in] random and B [out, rank] zero at the start, so that an
untrained adapter changes nothing. Source: Hu et al. 2021, "LoRA".
"""

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from schemas.training import LoraParameters

# All linear layers but the output head: best on small data sets (Schulman et al. 2025).
TARGET_MODULES = "all-linear"


def add_adapter(model: Any, lora: LoraParameters, seed: int) -> PeftModel:
    """Wrap a transformers model with a fresh adapter, which alone is trainable.

    Seeds torch: the adapter's first weights and all later dropout follow from `seed`. The model is
    changed in place until `remove_adapter` is called.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=TARGET_MODULES,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def remove_adapter(adapted: PeftModel) -> Any:
    """Return the base model without the adapter, frozen and bit for bit as it was."""
    model = adapted.unload()
    model.requires_grad_(False)
    return model
