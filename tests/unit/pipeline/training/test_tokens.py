"""Which tokens of an example are shared, asked and learned, and which examples are refused."""

import json
import re
from pathlib import Path

import pytest

from pipeline.text.chat_format import chat_format
from pipeline.training.tokens import check_markers, read_examples
from schemas.errors import ChatFormatMismatch, ExampleTooLong

FORM = chat_format("chatml")
MARKERS = ("<|im_start|>", "<|im_end|>")


def encode(text: str) -> list[int]:
    """Tokenize into characters; a marker is one token."""
    parts = re.findall(r"<\|im_\w+\|>|.", text, re.DOTALL)
    return [MARKERS.index(part) if part in MARKERS else ord(part) for part in parts]


def dataset(folder: Path, *turns: tuple[str, str, str]) -> Path:
    """Write a data set of (system, question, answer)."""
    path = folder / "d.jsonl"
    roles = ("system", "user", "assistant")
    lines = [
        json.dumps({"messages": [{"role": r, "content": c} for r, c in zip(roles, t, strict=True)]})
        for t in turns
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_example_is_the_rendered_conversation(tmp_path: Path) -> None:
    """Prefix, question and answer add up to the rendering, without the final line break."""
    [[example]] = read_examples(dataset(tmp_path, ("S", "Q?", "An.")), FORM, encode, None, 99)
    turns = [("system", "S"), ("user", "Q?"), ("assistant", "An.")]
    whole = FORM.render([{"role": r, "content": c} for r, c in turns], add_generation_prompt=False)
    assert [*example.prefix, *example.question, *example.answer] == encode(whole.rstrip("\n"))


def test_the_loss_is_on_the_answer_and_its_end(tmp_path: Path) -> None:
    """Learned are the answer's tokens and the end-of-turn token."""
    [[example]] = read_examples(dataset(tmp_path, ("S", "Q?", "An.")), FORM, encode, None, 99)
    assert list(example.answer) == encode("An.<|im_end|>")


def test_other_wordings_change_the_question_alone(tmp_path: Path) -> None:
    """Prefix and answer are those of the example as taught."""
    path = dataset(tmp_path, ("S", "Q?", "An."))
    [[taught, other]] = read_examples(path, FORM, encode, None, 99, lambda q, a: ["R!"])
    assert (other.prefix, other.answer) == (taught.prefix, taught.answer)
    assert other.question == tuple(
        encode(FORM.render([{"role": "user", "content": "R!"}], add_generation_prompt=True))
    )


def test_an_example_over_the_limit_is_refused(tmp_path: Path) -> None:
    """It is not cut silently, and the message has its length but none of its words."""
    path = dataset(tmp_path, ("S", "Q?", "secret " * 50))
    with pytest.raises(ExampleTooLong) as caught:
        read_examples(path, FORM, encode, None, 64)
    assert "secret" not in caught.value.message
    assert caught.value.code == "example_too_long"


def test_a_base_of_another_family_is_noticed() -> None:
    """The end of a turn is several tokens in a tokenizer of another family."""
    check_markers(FORM, encode)
    with pytest.raises(ChatFormatMismatch):
        check_markers(chat_format("gemma"), encode)
