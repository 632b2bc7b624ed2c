"""The indexes of the collections that ModelServer owns: a catalogue, and what creates it."""

from datetime import UTC, datetime

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import OperationFailure

from pipeline.storage.mongo import CHAT_DEDUP, JOBS, MODELS, Store, store_errors

# Earlier than every stored date: what is later is a date, and not null.
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
# It did not hold the elder, and would refuse what `one_job_a_request_and_elder` accepts.
_FORMER_INDEX = "one_job_a_request"
# NamespaceNotFound, IndexNotFound.
_NOT_THERE = frozenset({26, 27})
# IndexOptionsConflict, IndexKeySpecsConflict.
_INDEX_DIFFERS = frozenset({85, 86})

_JOB_INDEXES = (
    # The elder too: a sender that numbers anew must not silence another elder's event.
    IndexModel(
        [("request_source", ASCENDING), ("request_id", ASCENDING), ("elder_id", ASCENDING)],
        name="one_job_a_request_and_elder",
        unique=True,
    ),
    # The database itself keeps two workers from one elder.
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
    # Partial indexes of what few jobs have: they cost a new job nothing.
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
# Ollama folds the case of model names: LI01 and li01 would share one model.
_MODEL_INDEXES = (IndexModel([("folded_id", ASCENDING)], name="one_elder_a_name", unique=True),)


def ensure_indexes(store: Store, dedup_hours: int) -> None:
    """Create the indexes that are missing; safe to repeat, and by several members at once.

    `dedup_hours` is how long a reply is remembered under its request.
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


def _ensure_expiry(store: Store, seconds: int) -> None:
    """Forget remembered replies after a while; another while than before is set."""
    name = "forget_after_a_while"
    index = IndexModel([("at", ASCENDING)], name=name, expireAfterSeconds=seconds)
    try:
        store[CHAT_DEDUP].create_indexes([index])
    except OperationFailure as error:
        if error.code not in _INDEX_DIFFERS:
            raise
        # In one step: of two members that start at once, neither finds the index gone.
        store.command("collMod", CHAT_DEDUP, index={"name": name, "expireAfterSeconds": seconds})
