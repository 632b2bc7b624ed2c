import pytest

from demo.elders import Elder, load_elders
from pipeline.retrieval.bm25 import Memories, MemoryCache
from pipeline.text.cleaning import CleanAnswer


def memories_of(elder: Elder) -> Memories:
    return Memories(
        CleanAnswer(answer_id=str(number), question=taught.question, answer=taught.answer)
        for number, taught in enumerate(elder.answers)
    )


@pytest.mark.parametrize("elder", load_elders(), ids=lambda e: e.language)
def test_each_question_as_taught_finds_its_own_answer(elder: Elder) -> None:
    memories = memories_of(elder)
    for number, taught in enumerate(elder.answers):
        found = memories.find(taught.question)
        assert found is not None
        assert (found.answer_id, found.question) == (str(number), taught.question)


@pytest.mark.parametrize("elder", load_elders(), ids=lambda e: e.language)
def test_most_questions_in_other_words_find_their_answer(elder: Elder) -> None:
    memories = memories_of(elder)
    found = [memories.find(r.question) for r in elder.rewordings]
    right = [
        f is not None and f.answer_id == str(r.answer_index)
        for f, r in zip(found, elder.rewordings, strict=True)
    ]
    assert sum(right) >= 0.75 * len(right)


def test_a_question_without_a_shared_word_finds_nothing() -> None:
    memories = Memories([CleanAnswer(answer_id="1", question="Your boat?", answer="The Gull.")])
    assert memories.find("xyzzy") is None


def test_an_elder_without_answers_is_no_error() -> None:
    assert Memories([]).find("Where were you born?") is None


def test_a_tie_has_no_margin() -> None:
    twins = [
        CleanAnswer(answer_id=str(n), question="Your boat?", answer="The Gull.") for n in range(2)
    ]
    found = Memories(twins).find("boat")
    assert found is not None
    assert found.margin == 0


def three_postings() -> Memories:
    made = Memories([CleanAnswer(answer_id="1", question="Boat?", answer="Red larch.")])
    assert len(made) == 3
    return made


def test_who_was_not_asked_for_longest_is_forgotten_first() -> None:
    cache, anna, bert, carl = MemoryCache(most=6), *(three_postings() for _ in range(3))
    cache.put("anna", "1", anna)
    cache.put("bert", "1", bert)
    assert cache.get("anna", "1") is anna
    cache.put("carl", "1", carl)
    assert cache.get("bert", "1") is None
    assert (cache.get("anna", "1"), cache.get("carl", "1")) == (anna, carl)


def test_an_index_is_of_one_elder_and_one_data_set() -> None:
    cache = MemoryCache()
    cache.put("anna", "1", three_postings())
    assert cache.get("anna", "2") is None
    assert cache.get("bert", "1") is None


def test_one_larger_than_all_the_room_is_kept_until_the_next() -> None:
    cache = MemoryCache(most=1)
    for elder in ("anna", "bert"):
        cache.put(elder, "1", three_postings())
    assert cache.get("anna", "1") is None
    assert cache.get("bert", "1") is not None


def test_an_index_put_twice_counts_once() -> None:
    cache = MemoryCache(most=6)
    cache.put("anna", "1", three_postings())
    cache.put("bert", "1", three_postings())
    cache.put("bert", "1", three_postings())
    assert cache.get("anna", "1") is not None
