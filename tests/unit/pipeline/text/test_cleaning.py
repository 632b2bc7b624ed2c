"""Cleaning: every answer is taught or counted, and every example fits."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.cleaning import MARKER_TOKENS, CleanAnswer, Cleaner, fold
from pipeline.text.sentences import estimate_tokens
from schemas.answers import Answer
from tests.unit.pipeline.text.texts import TEXT


def cleaned(
    *pairs: tuple[str, str], max_tokens: int = 400
) -> tuple[list[CleanAnswer], dict[str, int]]:
    cleaner = Cleaner(max_tokens)
    raw = (Answer(id=str(i), question=q, answer=a) for i, (q, a) in enumerate(pairs))
    return list(cleaner.clean(raw)), dict(cleaner.skipped)


@given(TEXT)
@settings(deadline=None, max_examples=200, database=None)
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6), st.integers(64, 200))
@settings(deadline=None, max_examples=100, database=None)
def test_every_answer_is_taught_or_counted_and_every_example_fits(
    pairs: list[tuple[str, str]], max_tokens: int
) -> None:
    rows, skipped = cleaned(*pairs, max_tokens=max_tokens)
    left_out = sum(n for reason, n in skipped.items() if not reason.endswith("_too_long"))
    assert len({row.answer_id for row in rows}) + left_out == len(pairs)
    for row in rows:
        both = estimate_tokens(row.question) + estimate_tokens(row.answer)
        assert both + MARKER_TOKENS <= max_tokens + 8


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("", "在绍兴。", "empty_question"),
        (" \n\t", "在绍兴。", "empty_question"),
        ("在哪里？", "", "empty_answer"),
        ("在哪里？", "\0 \x1b", "empty_answer"),
        ("在哪里？", "\u200b", "too_short"),
        ("在哪里？", "嗯", "too_short"),
        ("在哪里？", "……！", "too_short"),
    ],
)
def test_what_teaches_nothing_is_left_out_with_its_reason(
    question: str, answer: str, reason: str
) -> None:
    rows, skipped = cleaned((question, answer))
    assert (rows, skipped) == ([], {reason: 1})


def test_same_question_and_answer_is_taught_once() -> None:
    rows, skipped = cleaned(
        ("哪里？", "在绍兴。"), ("哪里？ ", "在绍兴。\n"), ("哪里？", "在杭州。")
    )
    assert [row.answer for row in rows] == ["在绍兴。", "在杭州。"]
    assert skipped == {"duplicate": 1}


def test_long_answer_is_split_at_its_sentences_and_counted_once() -> None:
    sentences = [f"第{i}年我们修了一座桥，很长很长。" for i in range(30)]
    rows, skipped = cleaned(("修了什么？", "".join(sentences)), max_tokens=200)
    assert len(rows) > 1
    assert "".join(row.answer for row in rows) == "".join(sentences)
    assert all(row.answer.endswith("。") for row in rows)
    assert skipped == {"split_too_long": 1}
    assert [row.part for row in rows] == list(range(len(rows)))
    assert rows[0].question == "修了什么？"
    assert all(row.question == "修了什么？（接着讲）" for row in rows[1:])


def test_question_that_fills_the_window_is_cut() -> None:
    rows, skipped = cleaned(("很长的问题。" * 100, "在绍兴的一个小村子里。"), max_tokens=100)
    assert skipped == {"cut_too_long": 1}
    assert rows[0].question.startswith("很长的问题。")
    assert rows[0].answer == "在绍兴的一个小村子里。"


def test_control_characters_go_and_line_breaks_stay() -> None:
    assert fold("一\0二\x1b三\r\n  四   五\n\n六") == "一二三\n四 五\n六"
    assert fold("e\u0301") == "é"


def test_answers_are_read_one_by_one() -> None:
    """The second answer is not read before it is asked for."""
    read: list[int] = []

    def answers() -> Iterator[Answer]:
        for i in range(1000):
            read.append(i)
            yield Answer(id=str(i), question="Where?", answer=f"In village number {i}.")

    rows = Cleaner(400).clean(answers())
    next(rows)
    assert read == [0]
