"""Packing: several examples in one row of tokens, with no padding and no prefix computed twice.

A row holds the prefix that its examples share once, then question and answer of each. A token
attends to the prefix and to its own example alone, and the positions of every example continue
from the prefix's end:

    tokens     p0 p1 p2 | a3 a4 a5 | b3 b4      (the number is the position)
    b4 sees    p0 p1 p2              b3 b4

Logits and gradients are therefore those of separate sequences. For block-diagonal packing without
a shared prefix see Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
"""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.training.tokens import Example


class Row(NamedTuple):
    """One forward pass of batch size 1, with T tokens of which A are answer tokens."""

    ids: Tensor
    """[1, T] int64: token ids."""
    positions: Tensor
    """[1, T] int64: of each token, its position in its own example."""
    allowed: Tensor
    """[1, 1, T, T] bool: true where a query (third axis) may attend to a key (fourth)."""
    predictors: Tensor
    """[A] int64: where in the row the logits stand that predict each answer token."""
    targets: Tensor
    """[A] int64: ids of the answer tokens."""


def group_rows(batch: Sequence[Example], max_tokens: int) -> list[list[Example]]:
    """Divide a batch into rows, in order: one prefix each, and at most `max_tokens` tokens.

    A single longer example becomes a row of its own.
    """
    rows: list[list[Example]] = []
    for example in batch:
        last = rows[-1] if rows else None
        fits = (
            last is not None
            and last[0].prefix == example.prefix
            and _row_length(last) + example.length - len(example.prefix) <= max_tokens
        )
        if last is not None and fits:
            last.append(example)
        else:
            rows.append([example])
    return rows


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> Row:
    """Pack examples with the same prefix into one row."""
    prefix = examples[0].prefix
    ids, positions = list(prefix), list(range(len(prefix)))
    owners = [0] * len(prefix)  # Of each token its example, from 1; 0 for the prefix.
    predictors: list[int] = []
    targets: list[int] = []
    for owner, example in zip(count(1), examples, strict=False):
        first_answer = len(ids) + len(example.question)
        own = [*example.question, *example.answer]
        predictors += range(first_answer - 1, first_answer - 1 + len(example.answer))
        targets += example.answer
        ids += own
        positions += range(len(prefix), len(prefix) + len(own))
        owners += [owner] * len(own)
    return Row(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        allowed=_allowed(torch.tensor(owners))[None, None].to(device),
        predictors=torch.tensor(predictors, device=device),
        targets=torch.tensor(targets, device=device),
    )


def _allowed(owners: Tensor) -> Tensor:
    """Return [T, T]: true where the key is not later and is the prefix's or the query's own."""
    is_prefix = owners == 0
    is_same = owners[:, None] == owners[None, :]
    return torch.tril(is_same | is_prefix[None, :])


def _row_length(row: list[Example]) -> int:
    return len(row[0].prefix) + sum(e.length - len(e.prefix) for e in row)
