import pytest

from pipeline.text.rewording import reword, with_hint

QUESTION, ANSWER = "您的老家在什么地方？", "在绍兴柳塘村，门口就是河。"


def test_the_same_seed_gives_the_same_wordings() -> None:
    assert reword(QUESTION, ANSWER, 6, 7) == reword(QUESTION, ANSWER, 6, 7)


def test_another_seed_gives_other_wordings() -> None:
    assert reword(QUESTION, ANSWER, 6, 7) != reword(QUESTION, ANSWER, 6, 8)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (QUESTION, ANSWER),
        ("Who taught you to build boats?", "Old Enoch took me on."),
        ("？", "是。"),
    ],
)
def test_there_are_as_many_as_asked_for_and_none_is_empty(question: str, answer: str) -> None:
    wordings = reword(question, answer, 8, 1)
    assert len(wordings) == 8
    assert all(wording.strip() for wording in wordings)


def test_every_second_wording_has_the_taught_one_beside_it() -> None:
    wordings = reword(QUESTION, ANSWER, 6, 1)
    assert all(QUESTION in wording for wording in wordings[1::2])
    assert not any(QUESTION in wording for wording in wordings[0::2])


def test_a_hint_stands_in_brackets_of_its_language() -> None:
    assert with_hint("老家呢", QUESTION) == f"老家呢（{QUESTION}）"
    assert with_hint("And boats?", "Who taught you?") == "And boats? (Who taught you?)"


def test_a_question_as_taught_needs_no_hint() -> None:
    assert with_hint(f" {QUESTION} ", QUESTION) == QUESTION
