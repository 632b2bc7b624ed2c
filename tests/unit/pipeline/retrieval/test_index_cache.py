from pipeline.retrieval.bm25 import AnswerIndex
from pipeline.retrieval.index_cache import IndexCache
from pipeline.text.cleaning import CleanAnswer


def three_postings() -> AnswerIndex:
    made = AnswerIndex([CleanAnswer(answer_id="1", question="Boat?", answer="Red larch.")])
    assert len(made) == 3
    return made


def test_least_recently_used_index_is_evicted_first() -> None:
    cache, anna, bert, carl = IndexCache(max_postings=6), *(three_postings() for _ in range(3))
    cache.put("anna", "1", anna)
    cache.put("bert", "1", bert)
    assert cache.get("anna", "1") is anna
    cache.put("carl", "1", carl)
    assert cache.get("bert", "1") is None
    assert (cache.get("anna", "1"), cache.get("carl", "1")) == (anna, carl)


def test_an_index_is_of_one_elder_and_one_data_set() -> None:
    cache = IndexCache()
    cache.put("anna", "1", three_postings())
    assert cache.get("anna", "2") is None
    assert cache.get("bert", "1") is None


def test_index_beyond_the_limit_by_itself_is_kept_until_the_next() -> None:
    cache = IndexCache(max_postings=1)
    for elder in ("anna", "bert"):
        cache.put(elder, "1", three_postings())
    assert cache.get("anna", "1") is None
    assert cache.get("bert", "1") is not None


def test_an_index_put_twice_counts_once() -> None:
    cache = IndexCache(max_postings=6)
    cache.put("anna", "1", three_postings())
    cache.put("bert", "1", three_postings())
    cache.put("bert", "1", three_postings())
    assert cache.get("anna", "1") is not None
