"""The catalogue of MongoDB indexes, with what each enforces, and the function that creates them."""

from datetime import UTC, datetime

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import OperationFailure

from pipeline.storage.mongo import CHAT_DEDUP, JOBS, MODELS, Store, store_errors

# Earlier than any stored date: `$gt` this date matches every date, and no null.
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
# The unique index of earlier releases. It leaves out the elder, so it would refuse requests that
# `one_job_a_request_and_elder` allows.
_FORMER_INDEX = "one_job_a_request"
# NamespaceNotFound, IndexNotFound.
_NOT_THERE = frozenset({26, 27})
# IndexOptionsConflict, IndexKeySpecsConflict.
_INDEX_DIFFERS = frozenset({85, 86})

_JOB_INDEXES = (
    # The elder is part of the key: a sender that restarts its numbering must not suppress another
    # elder's event.
    IndexModel(
        [("request_source", ASCENDING), ("request_id", ASCENDING), ("elder_id", ASCENDING)],
        name="one_job_a_request_and_elder",
        unique=True,
    ),
    # At most one running job per elder, enforced by the database itself.
    IndexModel(
        [("elder_id", ASCENDING)],
        name="one_running_job_an_elder",
        unique=True,
        partialFilterExpression={"status": "running"},
    ),
    IndexModel(
        [("status", ASCENDING), ("queued_at", ASCENDING), ("queue_order", ASCENDING)],
        name="queue",
    ),
    IndexModel([("elder_id", ASCENDING), ("queued_at", DESCENDING)], name="jobs_of_an_elder"),
    IndexModel(
        [("elder_id", ASCENDING), ("status", ASCENDING), ("queue_order", ASCENDING)],
        name="line_of_an_elder",
    ),
    # Partial, on fields that few jobs have: a newly queued training is in none of the first
    # three.
    IndexModel(
        [("served_at", DESCENDING)],
        name="served",
        partialFilterExpression={"served_at": {"$gt": _EARLIEST}},
    ),
    IndexModel(
        [("not_before", ASCENDING)],
        name="backing_off",
        partialFilterExpression={"not_before": {"$gt": _EARLIEST}},
    ),
    IndexModel([("urgent", ASCENDING)], name="urgent", partialFilterExpression={"urgent": True}),
    IndexModel(
        [("pending_since", ASCENDING)],
        name="outbox",
        partialFilterExpression={"has_pending": True},
    ),
)
# Ollama ignores the case of model names: LI01 and li01 would share one model.
_MODEL_INDEXES = (IndexModel([("folded_id", ASCENDING)], name="one_elder_a_name", unique=True),)


def ensure_indexes(store: Store, dedup_hours: int) -> None:
    """Create the indexes that are missing; safe to repeat, and in several processes at once.

    Remembered replies expire after `dedup_hours`. Raises StoreUnavailable.
    """
    with store_errors():
        _drop_former_index(store)
        store[JOBS].create_indexes(list(_JOB_INDEXES))
        store[MODELS].create_indexes(list(_MODEL_INDEXES))
        _ensure_expiry(store, dedup_hours * 3600)


def _drop_former_index(store: Store) -> None:
    try:
        store[JOBS].drop_index(_FORMER_INDEX)
    except OperationFailure as error:
        if error.code not in _NOT_THERE:
            raise


def _ensure_expiry(store: Store, expiry_s: int) -> None:
    """Create the index that expires remembered replies, or change its period."""
    name = "forget_after_a_while"
    index = IndexModel([("at", ASCENDING)], name=name, expireAfterSeconds=expiry_s)
    try:
        store[CHAT_DEDUP].create_indexes([index])
    except OperationFailure as error:
        if error.code not in _INDEX_DIFFERS:
            raise
        # Changed in place: after a drop, another process that starts at the same time could find
        # the index missing.
        store.command("collMod", CHAT_DEDUP, index={"name": name, "expireAfterSeconds": expiry_s})
