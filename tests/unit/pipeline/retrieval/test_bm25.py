import pytest

from demo.elders import Elder, load_elders
from pipeline.retrieval.bm25 import AnswerIndex
from pipeline.text.cleaning import CleanAnswer


def index_of(elder: Elder) -> AnswerIndex:
    return AnswerIndex(
        CleanAnswer(answer_id=str(number), question=taught.question, answer=taught.answer)
        for number, taught in enumerate(elder.answers)
    )


@pytest.mark.parametrize("elder", load_elders(), ids=lambda e: e.language)
def test_each_question_as_taught_finds_its_own_answer(elder: Elder) -> None:
    index = index_of(elder)
    for number, taught in enumerate(elder.answers):
        found = index.find(taught.question)
        assert found is not None
        assert (found.answer_id, found.question) == (str(number), taught.question)


@pytest.mark.parametrize("elder", load_elders(), ids=lambda e: e.language)
def test_most_questions_in_other_words_find_their_answer(elder: Elder) -> None:
    index = index_of(elder)
    found = [index.find(r.question) for r in elder.rewordings]
    right = [
        f is not None and f.answer_id == str(r.answer_index)
        for f, r in zip(found, elder.rewordings, strict=True)
    ]
    assert sum(right) >= 0.75 * len(right)


def test_a_question_without_a_shared_word_finds_nothing() -> None:
    index = AnswerIndex([CleanAnswer(answer_id="1", question="Your boat?", answer="The Gull.")])
    assert index.find("xyzzy") is None


def test_an_elder_without_answers_is_no_error() -> None:
    assert AnswerIndex([]).find("Where were you born?") is None


def test_a_tie_has_no_margin() -> None:
    twins = [
        CleanAnswer(answer_id=str(n), question="Your boat?", answer="The Gull.") for n in range(2)
    ]
    found = AnswerIndex(twins).find("boat")
    assert found is not None
    assert found.margin == 0
