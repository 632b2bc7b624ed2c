"""Contract of the store: the fake gives a filter or an update the meaning that a real store does.

These are the cases that the ledger relies on and that are easy to get wrong: null and missing,
types that are never equal, unique and partial indexes, batches that fail in part.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import CHAT_DEDUP, JOBS, Document, Store
from tests.fakes.clock import FalseClock
from tests.fakes.mongo import FakeStore
from tests.fakes.mongo_language import NotInTheFake

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_OFF = datetime(2120, 1, 1, tzinfo=UTC)


def job(number: int, elder: str = "E", **fields: Any) -> Document:
    key = {"request_source": "s", "request_id": f"r{number}"}
    return {"_id": f"j{number}", "elder_id": elder, "status": "queued"} | key | fields


def before_now(field: str, operator: str = "$lt") -> Document:
    return {"$expr": {operator: [{"$toLong": f"${field}"}, {"$toLong": "$$NOW"}]}}


def found(store: Store, condition: Document) -> list[str]:
    return sorted(d["_id"] for d in store[JOBS].find(condition, {"status": 1}))


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ({"at": None}, {"j1", "j2"}),
        ({"at": {"$type": "date"}}, {"j3", "j4"}),
        (before_now("at"), {"j1", "j2", "j3"}),
        (before_now("at", "$lte"), {"j1", "j2", "j3"}),
        (before_now("at", "$gt"), {"j4"}),
        ({"at": {"$type": "date"}} | before_now("at"), {"j3"}),
        ({"flag": True}, {"j1"}),
        ({"flag": 1}, {"j2"}),
        ({"deep.n": {"$lte": 3}}, {"j2"}),
        ({"deep.n": {"$lt": 4}}, {"j2"}),
        ({"at": {"$lt": FAR_OFF}}, {"j3"}),
        ({"at": {"$lte": FAR_OFF}}, {"j3", "j4"}),
        ({"at": {"$gt": LONG_AGO}}, {"j4"}),
        ({"deep.n": {"$gt": 3}}, {"j3"}),
        ({"elder_id": {"$in": ["F", "G", "H"]}}, {"j3", "j4"}),
        ({"list": {"$size": 0}}, {"j3"}),
        ({"list": 1}, {"j1"}),
        ({"list": "1"}, set()),
        ({"status": {"$ne": "queued"}, "list": 1}, set()),
        ({"elder_id": {"$nin": ["E", "F"]}}, {"j4"}),
    ],
)
def test_filter_finds(store: Store, condition: Document, numbers: set[str]) -> None:
    store[JOBS].insert_many(
        [
            job(1, flag=True, deep=None, list=[1]),
            job(2, at=None, flag=1, deep={"n": 3}),
            job(3, "F", at=LONG_AGO, deep={"n": 4}, list=[]),
            job(4, "G", at=FAR_OFF, deep={"n": None}),
        ],
        ordered=False,
    )
    assert found(store, condition) == sorted(numbers)


def test_nulls_and_missing_fields_in_a_pipeline(store: Store) -> None:
    store[JOBS].insert_one(job(1, null=None, n=4, at=LONG_AGO))
    fields: Document = {
        "sum": {"$add": ["$null", 1]},
        "first": {"$ifNull": ["$not_there", "$at"]},
        "later": {"$add": ["$at", 1500]},
        "less": {"$subtract": ["$n", 1]},
        "n": 9,
        "same": "$n",
        "text": {"$literal": "$n"},
    }
    store[JOBS].update_one({"_id": "j1"}, [{"$set": fields}])
    after = store[JOBS].find_one({"_id": "j1"})
    assert after is not None
    assert {name: after[name] for name in fields} == {
        "sum": None,
        "first": LONG_AGO,
        "later": LONG_AGO + timedelta(seconds=1.5),
        "less": 3,
        "n": 9,
        "same": 4,
        "text": "$n",
    }


def test_batch_out_of_order_goes_on_and_names_what_failed(store: Store) -> None:
    store[JOBS].insert_one(job(2))
    with pytest.raises(BulkWriteError) as failure:
        store[JOBS].insert_many([job(1), job(2), job(3) | {"_id": "x"}, job(3)], ordered=False)
    details = failure.value.details
    assert [(e["index"], e["code"]) for e in details["writeErrors"]] == [(1, 11000), (3, 11000)]
    assert details["writeConcernErrors"] == [] and details["nInserted"] == 2
    assert found(store, {}) == ["j1", "j2", "x"]


def test_batch_in_order_stops_at_the_first_failure(store: Store) -> None:
    store[JOBS].insert_one(job(2))
    with pytest.raises(BulkWriteError) as failure:
        store[JOBS].insert_many([job(1), job(2), job(3)], ordered=True)
    assert [e["index"] for e in failure.value.details["writeErrors"]] == [1]
    assert found(store, {}) == ["j1", "j2"]


def test_partial_unique_index_counts_only_its_own(store: Store) -> None:
    jobs = store[JOBS]
    jobs.insert_many([job(1), job(2), job(3, "F", status="running")], ordered=False)
    assert jobs.update_one({"_id": "j1"}, {"$set": {"status": "running"}}).matched_count == 1
    for update in ({"$set": {"status": "running"}}, [{"$set": {"status": "running"}}]):
        with pytest.raises(DuplicateKeyError):
            jobs.update_one({"_id": "j2"}, update)
    jobs.update_one({"_id": "j1"}, {"$set": {"status": "failed"}})
    assert jobs.update_one({"_id": "j2"}, {"$set": {"status": "running"}}).matched_count == 1


def test_lists_grow_and_shrink_in_one_document(store: Store) -> None:
    jobs = store[JOBS]
    jobs.insert_one(job(1))
    push = {"$set": {"n": 1}, "$push": {"list": {"$each": [{"n": 1}, {"n": 2}, {"n": 3}]}}}
    jobs.update_one({"_id": "j1"}, push)
    pull = {"$pull": {"list": {"n": {"$lte": 2}}, "not_there": {"n": {"$lte": 2}}}}
    jobs.bulk_write([UpdateOne({"_id": "j1"}, pull)], ordered=True)
    after = jobs.find_one({"_id": "j1"}, {"list": 1, "not_there": 1})
    assert after == {"_id": "j1", "list": [{"n": 3}]}


def test_list_gets_a_value_once(store: Store) -> None:
    jobs = store[JOBS]
    jobs.insert_one(job(1, list=["a"]))
    for value in ("a", "b", "b"):
        jobs.update_one({"_id": "j1"}, {"$addToSet": {"list": value}})
    assert jobs.find_one({"list": "b"}, {"list": 1}) == {"_id": "j1", "list": ["a", "b"]}


def test_order_puts_what_is_missing_first(store: Store) -> None:
    dates = [FAR_OFF, LONG_AGO, None]
    store[JOBS].insert_many([job(n, at=at) for n, at in enumerate(dates)] + [job(3)], ordered=False)
    assert [d["_id"] for d in store[JOBS].find({}).sort([("at", 1), ("_id", -1)]).limit(3)] == [
        "j3",
        "j2",
        "j1",
    ]
    assert sorted(store[JOBS].distinct("elder_id", {"status": "queued"})) == ["E"]
    assert store[JOBS].count_documents({"status": "queued"}) == 4


@pytest.mark.parametrize(
    "condition",
    [
        {"at": {"$gte": FAR_OFF}},
        {"$or": [{"at": None}]},
        {"$expr": {"$lt": ["$at", "$$NOW"]}},
        {"list": [1]},
        {"at": {"$exists": True}},
    ],
)
def test_fake_refuses_what_it_does_not_know(condition: Document) -> None:
    """Among it what SecantusDB does differently from MongoDB: a date compared with $$NOW."""
    jobs = FakeStore(FalseClock()).as_store()[JOBS]
    jobs.insert_one(job(1, at=LONG_AGO, list=[1]))
    with pytest.raises(NotInTheFake):
        jobs.find_one(condition)


def test_index_of_an_earlier_release_gives_way(store: Store) -> None:
    """The former index refused another elder's request with a known id."""
    former = IndexModel(
        [("request_source", ASCENDING), ("request_id", ASCENDING)],
        name="one_job_a_request",
        unique=True,
    )
    store[JOBS].create_indexes([former])
    ensure_indexes(store, dedup_hours=1)
    ensure_indexes(store, dedup_hours=1)
    assert "one_job_a_request" not in store[JOBS].index_information()
    store[JOBS].insert_many([job(1, "E"), job(1, "F", _id="j2")], ordered=True)


def test_index_that_is_not_there_cannot_be_dropped(store: Store) -> None:
    with pytest.raises(OperationFailure) as failure:
        store[JOBS].drop_index("nobody's")
    assert failure.value.code == 27


def test_index_that_is_not_there_cannot_be_changed(store: Store) -> None:
    ensure_indexes(store, dedup_hours=1)
    with pytest.raises(OperationFailure) as failure:
        store.command("collMod", CHAT_DEDUP, index={"name": "no", "expireAfterSeconds": 1})
    assert failure.value.code == 27
