"""MongoDB: the connection, the names of the collections, and which errors pass by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pymongo import MongoClient
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
# The stored name predates the word "lease".
LEASES = "turns"

# OperationFailure codes of conditions that pass. The server steps down, shuts down or starts up:
# 91, 133, 189, 262, 10107, 11600, 11602, 13435, 13436. It cannot reach another server: 6, 7, 89,
# 202, 9001. Write conflict: 112. Its disk is full: 14031. A cursor or its query plan was killed:
# 43, 175, 237. No majority is known yet: 134.
_PASSING_CODES = frozenset({91, 133, 189, 262, 10107, 11600, 11602, 13435, 13436})
_PASSING_CODES |= {6, 7, 89, 202, 9001, 112, 14031, 43, 175, 237, 134}
# Unauthorized, AuthenticationFailed, and the code that Atlas uses for both.
_REFUSED_CODES = frozenset({13, 18, 8000})
_TLS_FAILS = (
    "TLS with MongoDB fails; check that tlsCAFile in MONGODB_URI signed the server's certificate, "
    "that it bears the server's host name, and tlsCertificateKeyFile"
)
_PASSING = (ConnectionFailure, ExecutionTimeout, WriteConcernError)


def open_client(settings: MongoSettings) -> MongoClient[Document]:
    """Open a client with `client_options`; raises ConfigurationError for a wrong URI."""
    with checked_uri(settings) as uri:
        return MongoClient(uri, **client_options(settings))


def client_options(settings: MongoSettings) -> dict[str, Any]:
    """Return the options of every client, synchronous or not.

    A write is acknowledged once a majority of the servers has it on disk, so what is published
    after it survives a failover. The driver does not retry writes: callers repeat what is safe to
    repeat. An operation without an answer fails after four times `timeout_s`.
    """
    milliseconds = int(settings.timeout_s * 1000)
    return {
        "tz_aware": True,
        "w": "majority",
        "journal": True,
        "retryWrites": False,
        "serverSelectionTimeoutMS": milliseconds,
        "connectTimeoutMS": milliseconds,
        "socketTimeoutMS": milliseconds * 4,
        "appname": "heirloom-modelserver",
    }


@contextmanager
def checked_uri(settings: MongoSettings) -> Iterator[str]:
    """Yield the URI; raise ConfigurationError if it, or the client made from it, is wrong."""
    uri = settings.uri.get_secret_value()
    try:
        # The client only warns of an unknown option: with `tsl=true` there would be no TLS at all.
        if options := uri.partition("?")[2]:
            split_options(options, warn=False)
        yield uri
    except (PyMongoError, ValueError, TypeError, OSError) as error:
        # Without the driver's text and cause: they can quote the URI, password included.
        raise ConfigurationError(
            f"MONGODB_URI: found a secret ({type(error).__name__}), expected: user and password "
            "percent-encoded, known options, files that can be read"
        ) from None


@contextmanager
def store_errors() -> Iterator[None]:
    """Translate errors of the driver; those that fit neither class go through.

    StoreUnavailable: the condition passes, so the caller retries. StoreRefused: an operator must
    fix the credentials, the rights or TLS.
    """
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
    """Return the error codes; a batch has one for each failed write."""
    if not isinstance(error, BulkWriteError):
        return {error.code or 0}
    return {failure["code"] for failure in error.details.get("writeErrors", [])}


def _is_unconfirmed(error: OperationFailure) -> bool:
    """Say whether a batch was written without confirmation by a majority of the servers."""
    return isinstance(error, BulkWriteError) and bool(error.details.get("writeConcernErrors"))


def server_time(store: Store) -> datetime:
    """Return the time by MongoDB's clock, by which all leases expire."""
    hello: Document = store.command("hello")
    now: datetime = hello["localTime"]
    return now.replace(tzinfo=UTC)  # Commands are answered without a time zone.


def _reason(error: Exception, *codes: int) -> str:
    # The driver's text can hold the whole topology; its type and codes say enough.
    what = " ".join([type(error).__name__, *map(str, codes)])
    return f"MongoDB is not available ({what}); check MONGODB_URI and the server"
