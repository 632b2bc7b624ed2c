"""Which tokens are learned, and who attends to whom in a packed row."""

import json
import re
from pathlib import Path

import pytest

from pipeline.text.chat_format import chat_format
from pipeline.training.tokens import (
    Example,
    check_markers,
    group_rows,
    pack,
    read_examples,
)
from schemas.errors import ChatFormatMismatch, ExampleTooLong

FORM = chat_format("chatml")
MARKERS = ("<|im_start|>", "<|im_end|>")
A = Example(prefix=(1, 2, 3), question=(10, 11), answer=(20, 21))
B = Example(prefix=(1, 2, 3), question=(12,), answer=(22, 23, 24))
OTHER = Example(prefix=(9,), question=(13,), answer=(25,))


def encode(text: str) -> list[int]:
    """One token a character; a marker is one token."""
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
    """Prefix, question and answer together are the whole rendering, but for what follows it."""
    [[example]] = read_examples(dataset(tmp_path, ("S", "Q?", "An.")), FORM, encode, None, 99)
    turns = [("system", "S"), ("user", "Q?"), ("assistant", "An.")]
    whole = FORM.render([{"role": r, "content": c} for r, c in turns], add_generation_prompt=False)
    assert [*example.prefix, *example.question, *example.answer] == encode(whole.rstrip("\n"))


def test_the_loss_is_on_the_answer_and_its_end(tmp_path: Path) -> None:
    """The learned tokens are the answer's and the end of the turn, and no others."""
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
    """Nothing is cut silently; the message has lengths and no word of the elder."""
    path = dataset(tmp_path, ("S", "Q?", "secret " * 50))
    with pytest.raises(ExampleTooLong) as caught:
        read_examples(path, FORM, encode, None, 64)
    assert "secret" not in caught.value.message
    assert caught.value.code == "example_too_long"


def test_a_base_of_another_family_is_noticed() -> None:
    """Where the end of a turn is several tokens, the format is not this base's."""
    check_markers(FORM, encode)
    with pytest.raises(ChatFormatMismatch):
        check_markers(chat_format("gemma"), encode)


def test_a_row_holds_the_prefix_once_and_goes_on_from_its_end() -> None:
    """Ids, positions and targets of a row of two examples."""
    row = pack([A, B])
    assert row.ids.tolist() == [[1, 2, 3, 10, 11, 20, 21, 12, 22, 23, 24]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6]]
    assert row.targets.tolist() == [20, 21, 22, 23, 24]
    assert row.predictors.tolist() == [4, 5, 7, 8, 9]


def test_an_example_sees_the_prefix_and_itself() -> None:
    """No token attends to another example, or to what comes after it."""
    allowed = pack([A, B]).allowed[0, 0]
    places = {"prefix": range(3), "a": range(3, 7), "b": range(7, 11)}
    for query in range(11):
        for key in range(11):
            of_query = next(name for name, place in places.items() if query in place)
            of_key = next(name for name, place in places.items() if key in place)
            expected = key <= query and of_key in ("prefix", of_query)
            assert bool(allowed[query, key]) == expected, (query, key)


def test_rows_are_cut_at_the_cap_and_where_the_prefix_changes() -> None:
    """A row has one prefix and at most so many tokens; the order is kept."""
    assert group_rows([A, B, OTHER], 11) == [[A, B], [OTHER]]
    assert group_rows([A, B], 10) == [[A], [B]]
