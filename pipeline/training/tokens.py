"""Tokens of a data set's examples: the shared prefix, the question, the answer to be learned.

An example is the rendered conversation in three parts. The prefix (the system prompt) is the same
for all examples of one elder; the question ends with the opening of the assistant's turn; the
answer ends with the end-of-turn token and alone bears the loss.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.text.chat_format import ChatFormat
from schemas.errors import ChatFormatMismatch, ExampleTooLong

Encode = Callable[[str], list[int]]
"""Turns rendered text into token ids, its markers into special tokens; adds none by itself."""
Reword = Callable[[str, str], list[str]]
"""Makes other wordings of a question, given the question and its answer."""


class Example(NamedTuple):
    """One tokenized example, as token ids."""

    prefix: tuple[int, ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens as an ordinary sequence."""
        return len(self.prefix) + len(self.question) + len(self.answer)


def read_examples(
    dataset: Path,
    form: ChatFormat,
    encode: Encode,
    bos: int | None,
    max_length: int,
    reword: Reword = lambda question, answer: [],
) -> list[list[Example]]:
    """Tokenize a data set: for each line the example as taught, then its other wordings.

    `bos` is put before the prefix if the chat format wants it. `max_length` is in tokens: raises
    ExampleTooLong if an example as taught exceeds it; another wording that does is left out.
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
        wordings = [
            Example(prefixes[opening], tuple(encode(_render_question(form, question))), answer)
            for question in questions
        ]
        if wordings[0].length > max_length:
            raise ExampleTooLong(
                f"an example has {wordings[0].length} tokens, max_seq_length is {max_length}"
            )
        examples.append([wording for wording in wordings if wording.length <= max_length])
    return examples


def check_markers(form: ChatFormat, encode: Encode) -> None:
    """Raise ChatFormatMismatch unless the end of a turn is one token of this tokenizer."""
    if len(encode(form.end_of_turn)) != 1:
        raise ChatFormatMismatch(
            "the end of a turn is not one token of the base model's tokenizer; check chat_format "
            "in training_config.yaml"
        )


def _render_question(form: ChatFormat, question: str) -> str:
    return form.render([{"role": "user", "content": question}], add_generation_prompt=True)


def _messages(dataset: Path) -> Iterator[list[dict[str, str]]]:
    with dataset.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["messages"]
