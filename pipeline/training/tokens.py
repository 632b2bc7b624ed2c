"""From JSONL lines to rows of tokens, with no padding computed and no prompt computed twice.

The examples of one elder begin with the same system prompt. A row holds it once, then the rest of
several examples; each attends to the prompt and to itself alone, and its positions go on from the
prompt's end. Logits and gradients are those of separate sequences (shared-prefix packing; for
block-diagonal packing without a shared prefix see Krell et al. 2021).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.text.chat_format import ChatFormat
from schemas.errors import ChatFormatMismatch, ExampleTooLong

Encode = Callable[[str], list[int]]
Reword = Callable[[str, str], list[str]]


class Example(NamedTuple):
    """One tokenized example. `answer` ends with the end-of-turn token and bears the loss."""

    prefix: tuple[int, ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens as an ordinary sequence."""
        return len(self.prefix) + len(self.question) + len(self.answer)


class Row(NamedTuple):
    """One forward pass of batch size 1; T tokens, A of them with a loss.

    `ids`, `positions`: [1, T] int64. `allowed`: [1, 1, T, T] bool, true where a query (third
    axis) may attend to a key. `predictors`, `targets`: [A] int64, where the logits that predict
    each answer token stand, and that token.
    """

    ids: Tensor
    positions: Tensor
    allowed: Tensor
    predictors: Tensor
    targets: Tensor


def read_examples(
    dataset: Path,
    form: ChatFormat,
    encode: Encode,
    bos: int | None,
    max_length: int,
    reword: Reword = lambda question, answer: [],
) -> list[list[Example]]:
    """Tokenize a data set: each example as taught, then with its question in other wordings.

    `encode` adds no special token by itself. Raises ExampleTooLong; another wording that would be
    too long is left out.
    """
    begin = [bos] if form.bos and bos is not None else []
    prefixes: dict[str, tuple[int, ...]] = {}
    examples = []
    for system, user, assistant in _messages(dataset):
        opening = form.render([system], add_generation_prompt=False)
        if opening not in prefixes:
            prefixes[opening] = (*begin, *encode(opening))
        answer = tuple(encode(form.render_answer(assistant["content"])))
        questions = [user["content"], *reword(user["content"], assistant["content"])]
        forms = [
            Example(prefixes[opening], tuple(encode(_asked(form, question))), answer)
            for question in questions
        ]
        if forms[0].length > max_length:
            raise ExampleTooLong(
                f"an example has {forms[0].length} tokens, max_seq_length is {max_length}"
            )
        examples.append([f for f in forms if f.length <= max_length])
    return examples


def _asked(form: ChatFormat, question: str) -> str:
    return form.render([{"role": "user", "content": question}], add_generation_prompt=True)


def check_markers(form: ChatFormat, encode: Encode) -> None:
    """Raise ChatFormatMismatch unless the end of a turn is one token of this tokenizer."""
    if len(encode(form.end_of_turn)) != 1:
        raise ChatFormatMismatch(
            "the end of a turn is not one token of the base model's tokenizer; check chat_format "
            "in training_config.yaml"
        )


def group_rows(batch: Sequence[Example], max_tokens: int) -> list[list[Example]]:
    """Divide a batch into rows: one prefix each, at most `max_tokens` (the mask is quadratic)."""
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
    owners = [0] * len(prefix)
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
    owner_of = torch.tensor(owners)
    shared = owner_of == 0
    same = owner_of[:, None] == owner_of[None, :]
    allowed = torch.tril(same | shared[None, :])
    return Row(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        allowed=allowed[None, None].to(device),
        predictors=torch.tensor(predictors, device=device),
        targets=torch.tensor(targets, device=device),
    )


def _row_length(row: list[Example]) -> int:
    return len(row[0].prefix) + sum(e.length - len(e.prefix) for e in row)


def _messages(dataset: Path) -> Iterator[list[dict[str, str]]]:
    with dataset.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["messages"]
