"""Answers from a real store: under the configured names, in order, page by page."""

from __future__ import annotations

import tracemalloc

import pytest

from config.settings import AnswerFields, MongoSettings
from pipeline.dataset.answers import MongoAnswers
from pipeline.storage.mongo import Store, open_client
from schemas.errors import StoreUnavailable, UnknownElder


def source(store: Store, mongo: MongoSettings, **changes: object) -> MongoAnswers:
    return MongoAnswers(store, mongo.model_copy(update=changes))


def test_answers_are_one_elders_alone_and_in_order(store: Store, mongo: MongoSettings) -> None:
    store["answers"].insert_many(
        [
            {"_id": 2, "elderId": "LXM", "question": "Q2", "answer": "A2"},
            {"_id": 1, "elderId": "LXM", "question": "Q1", "answer": "A1"},
            {"_id": 3, "elderId": "LXM2", "question": "Q3", "answer": "A3"},
            {"_id": 4, "elderId": "lxm", "question": "Q4", "answer": "A4"},
        ]
    )
    found = list(source(store, mongo).answers("LXM"))
    assert [(a.id, a.question, a.answer) for a in found] == [("1", "Q1", "A1"), ("2", "Q2", "A2")]


def test_fields_are_read_by_their_configured_names(store: Store, mongo: MongoSettings) -> None:
    fields = AnswerFields(
        elder_id=("person", "elderId"),
        elder_name=("fullName",),
        question=("title", "question"),
        answer=("text", "answer"),
    )
    store["replies"].insert_many(
        [
            {"_id": 1, "person": "LXM", "title": "T", "question": "no", "text": "X"},
            {"_id": 2, "elderId": "LXM", "question": "Q", "text": None, "answer": "A"},
            {"_id": 3, "person": "LXM", "fullName": "李秀梅", "title": "T3", "text": "X3"},
        ]
    )
    answers = source(store, mongo, fields=fields, answers_collection="replies")
    found = [(a.question, a.answer) for a in answers.answers("LXM")]
    assert found == [("T", "X"), ("Q", "A"), ("T3", "X3")]


def test_name_is_that_of_an_answer_or_none(store: Store, mongo: MongoSettings) -> None:
    answers = source(store, mongo)
    store["answers"].insert_many(
        [
            {"elderId": "LXM", "elderName": " 李秀梅 ", "question": "Q", "answer": "A"},
            {"elderId": "ZJG", "question": "Q", "answer": "A"},
        ]
    )
    assert answers.elder_name("LXM") == "李秀梅"
    assert answers.elder_name("ZJG") is None
    assert answers.elder_name("NOBODY") is None


def test_values_that_are_not_text_read_as_empty(store: Store, mongo: MongoSettings) -> None:
    store["answers"].insert_many(
        [
            {"_id": i, "elderId": "LXM", "question": value, "answer": value}
            for i, value in enumerate([5, None, ["x"], {"a": 1}, True])
        ]
    )
    found = list(source(store, mongo).answers("LXM"))
    assert [(a.question, a.answer) for a in found] == [("", "")] * 5


@pytest.mark.parametrize("elder_id", ["../x", "$ne", "", "LXM\n"])
def test_invalid_id_reaches_no_query(store: Store, mongo: MongoSettings, elder_id: str) -> None:
    answers = source(store, mongo)
    with pytest.raises(UnknownElder):
        list(answers.answers(elder_id))
    with pytest.raises(UnknownElder):
        answers.elder_name(elder_id)


def test_three_thousand_answers_are_read_in_small_pages(store: Store, mongo: MongoSettings) -> None:
    text = "我老家在绍兴，门前有一条河。" * 20
    store["answers"].insert_many(
        [{"_id": i, "elderId": "LXM", "question": f"Q{i}", "answer": text} for i in range(3000)]
    )
    answers = source(store, mongo, page_size=50)
    list(answers.answers("LXM"))  # The driver's own memory is allocated here and not measured.
    tracemalloc.start()
    ids = [a.id for a in answers.answers("LXM")]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ids == [str(i) for i in range(3000)]
    assert peak < 1_500_000, "all answers together have 2.5 MB"


def test_unreachable_store_is_a_reason_to_retry() -> None:
    settings = MongoSettings(uri="mongodb://127.0.0.1:9", timeout_s=0.2)
    client = open_client(settings)
    answers = MongoAnswers(client["x"], settings)
    with pytest.raises(StoreUnavailable):
        list(answers.answers("LXM"))
    with pytest.raises(StoreUnavailable):
        answers.elder_name("LXM")
    client.close()
