"""MongoDB: the connection, the collections' indexes, and which errors mean "wait for it"."""

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
# The stored name is older than the word.
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
_PASSING = (ConnectionFailure, ExecutionTimeout, WriteConcernError)


def open_client(settings: MongoSettings) -> MongoClient[Document]:
    """Open a client whose writes count only once a majority has them on disk."""
    with checked_uri(settings) as uri:
        return MongoClient(uri, **client_options(settings))


def client_options(settings: MongoSettings) -> dict[str, Any]:
    """Return the options of every client; one that hangs is given up after four timeouts."""
    milliseconds = int(settings.timeout_s * 1000)
    return {
        "tz_aware": True,
        # What is told or published once it is stored must survive a failover.
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


def _reason(error: Exception, *codes: int) -> str:
    # The driver's own text can hold a whole topology; its type and codes say enough.
    what = " ".join([type(error).__name__, *map(str, codes)])
    return f"MongoDB is not available ({what}); check MONGODB_URI and the server"
