"""MongoDB: the connection, the collections' indexes, and which errors mean "wait for it"."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, MongoClient
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import split_options

from config.settings import MongoSettings
from schemas.errors import ConfigurationError, StoreRefused, StoreUnavailable

Document = dict[str, Any]
Store = Database[Document]

MAJORITY = ReadConcern("majority")

JOBS = "jobs"
DATASETS = "datasets"
MODELS = "models"
CHAT_DEDUP = "chat_dedup"
LEASES = "turns"

# The driver calls these operation failures, and they pass. The server steps down, shuts down or
# starts up: 91, 133, 189, 262, 10107, 11600, 11602, 13435, 13436. It does not reach another one: 6,
# 7, 89, 202, 9001. Somebody else writes the same document: 112. Its disk is full: 14031. A cursor
# or its plan is gone: 43, 175, 237. No majority is known yet: 134.
_PASSING_CODES = frozenset({91, 133, 189, 262, 10107, 11600, 11602, 13435, 13436})
_PASSING_CODES |= {6, 7, 89, 202, 9001, 112, 14031, 43, 175, 237, 134}
# Unauthorized, AuthenticationFailed, and what Atlas says for both.
_REFUSED_CODES = frozenset({13, 18, 8000})
_TLS_FAILS = (
    "TLS with MongoDB fails; check that tlsCAFile in MONGODB_URI signed the server's certificate, "
    "that it bears the server's host name, and tlsCertificateKeyFile"
)
# Before any date that is stored: what is later is a date, and not null.
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
# It knew no elders, and would refuse what the one in its place lets in.
_FORMER_INDEX = "one_job_a_request"
# NamespaceNotFound, IndexNotFound.
_NOT_THERE = frozenset({26, 27})
# IndexOptionsConflict, IndexKeySpecsConflict.
_INDEX_DIFFERS = frozenset({85, 86})
_PASSING = (ConnectionFailure, ExecutionTimeout, WriteConcernError)


def open_client(settings: MongoSettings) -> MongoClient[Document]:
    """Open a client whose writes count only once a majority has them on disk."""
    milliseconds = int(settings.timeout_s * 1000)
    with checked_uri(settings) as uri:
        return MongoClient(
            uri,
            tz_aware=True,
            w="majority",
            journal=True,
            retryWrites=False,
            serverSelectionTimeoutMS=milliseconds,
            connectTimeoutMS=milliseconds,
            socketTimeoutMS=milliseconds * 4,
            appname="heirloom-modelserver",
        )


@contextmanager
def checked_uri(settings: MongoSettings) -> Iterator[str]:
    """Give the address to make a client of; raises ConfigurationError where it is wrong."""
    uri = settings.uri.get_secret_value()
    try:
        # The client itself only warns of a mistyped option, and `tsl=true` would be no TLS at all.
        if options := uri.partition("?")[2]:
            split_options(options, warn=False)
        yield uri
    except (PyMongoError, ValueError, TypeError, OSError) as error:
        # No text of the driver's, and no cause: it can quote the address, password included.
        raise ConfigurationError(
            f"MONGODB_URI: found a secret ({type(error).__name__}), expected: user and password "
            "percent-encoded, known options, files that can be read"
        ) from None


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn the driver's "cannot reach it now" into StoreUnavailable; let the rest through."""
    try:
        yield
    except _PASSING as error:
        if "SSL" in str(error) or "certificate" in str(error):
            raise StoreRefused(_TLS_FAILS) from error
        raise StoreUnavailable(_reason(error)) from error
    except OperationFailure as error:
        codes = _codes(error)
        if codes & _REFUSED_CODES:
            raise StoreRefused from error
        if codes & _PASSING_CODES or _is_unconfirmed(error):
            raise StoreUnavailable(_reason(error, *sorted(codes))) from error
        raise


def _codes(error: OperationFailure) -> set[int]:
    """Say what failed: a batch has a code for each of its writes."""
    if not isinstance(error, BulkWriteError):
        return {error.code or 0}
    return {failure["code"] for failure in error.details.get("writeErrors", [])}


def _is_unconfirmed(error: OperationFailure) -> bool:
    """Whether a batch was written, but not known to be on a majority of the servers."""
    return isinstance(error, BulkWriteError) and bool(error.details.get("writeConcernErrors"))


def server_time(store: Store) -> datetime:
    """Return MongoDB's own clock: the one on which all leases are kept."""
    hello: Document = store.command("hello")
    now: datetime = hello["localTime"]
    return now.replace(tzinfo=UTC)  # Commands are answered without a time zone.


def ensure_indexes(store: Store, dedup_hours: int) -> None:
    """Create the indexes of the collections that ModelServer owns; safe to repeat."""
    with store_errors():
        _drop_former_index(store)
        store[JOBS].create_indexes(
            [
                # The elder too: a sender that numbers anew must not silence another elder's event.
                IndexModel(
                    [
                        ("request_source", ASCENDING),
                        ("request_id", ASCENDING),
                        ("elder_id", ASCENDING),
                    ],
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
                IndexModel(
                    [("elder_id", ASCENDING), ("queued_at", DESCENDING)], name="jobs_of_an_elder"
                ),
                IndexModel(
                    [("elder_id", ASCENDING), ("status", ASCENDING), ("queue_order", ASCENDING)],
                    name="line_of_an_elder",
                ),
                # What few jobs have: a new one costs these three indexes nothing.
                IndexModel(
                    [("served_at", DESCENDING)],
                    name="served",
                    partialFilterExpression={"served_at": {"$gt": _EVER}},
                ),
                IndexModel(
                    [("not_before", ASCENDING)],
                    name="backing_off",
                    partialFilterExpression={"not_before": {"$gt": _EVER}},
                ),
                IndexModel(
                    [("urgent", ASCENDING)],
                    name="urgent",
                    partialFilterExpression={"urgent": True},
                ),
                IndexModel(
                    [("pending_since", ASCENDING)],
                    name="outbox",
                    partialFilterExpression={"has_pending": True},
                ),
            ]
        )
        # Ollama folds the case of model names: LI01 and li01 would share one model.
        store[MODELS].create_indexes(
            [IndexModel([("folded_id", ASCENDING)], name="one_elder_a_name", unique=True)]
        )
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


def _reason(error: Exception, *codes: int) -> str:
    # The driver's own text can hold a whole topology; its type and codes say enough.
    what = " ".join([type(error).__name__, *map(str, codes)])
    return f"MongoDB is not available ({what}); check MONGODB_URI and the server"
