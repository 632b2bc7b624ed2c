"""The loss of a packed row, and the attention masks under which it is computed."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pipeline.training.packing import Row


def row_loss(model: Any, row: Row) -> Tensor:
    """Return the cross entropy of a row's answer tokens, summed: a scalar in nats.

        loss = - sum over a of log softmax(logits[predictors[a]])[targets[a]]

    `model` is a transformers causal language model, adapted or not. Its head is applied to the
    positions that predict an answer token and to no others: logits are [A, vocabulary], in F32.
    With a vocabulary of 262,144 the head is most of a small model's work.
    """
    logits = model(
        input_ids=row.ids,
        position_ids=row.positions,
        attention_mask=attention_masks(model.config, row),
        use_cache=False,
        logits_to_keep=row.predictors,
    ).logits[0]
    return F.cross_entropy(logits.float(), row.targets, reduction="sum")


def attention_masks(config: Any, row: Row) -> Tensor | dict[str, Tensor]:
    """Return a row's mask, [1, 1, T, T] bool and true where a query may attend to a key.

    A base with several types of layer (Gemma 3) gets a dictionary with one mask for each type. In
    a sliding-attention layer a token attends only to keys that are fewer than `sliding_window`
    positions before it within its own example.
    """
    layer_types = set(getattr(config, "layer_types", None) or ())
    if not layer_types:
        return row.allowed
    distance = row.positions[0][:, None] - row.positions[0][None, :]
    near = row.allowed & (
        distance < (getattr(config, "sliding_window", None) or distance.max() + 1)
    )
    return {name: near if name == "sliding_attention" else row.allowed for name in layer_types}
