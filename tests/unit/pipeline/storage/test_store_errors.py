"""Which errors of MongoDB are waited for, and which are let through."""

import pytest
from pymongo import errors as mongo

from pipeline.storage.mongo import store_errors
from schemas.errors import StoreRefused
from schemas.errors import StoreUnavailable as Unavailable


def raise_in_store(error: Exception) -> None:
    with store_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        mongo.ConnectionFailure("away"),
        mongo.WaitQueueTimeoutError("all connections are in use"),
        mongo.NotPrimaryError("stepped down"),
        mongo.WTimeoutError("no majority", 64),
        mongo.ExecutionTimeout("slow", 50),
    ],
    ids=lambda error: type(error).__name__,
)
def test_driver_that_cannot_reach_the_store_is_waited_for(error: Exception) -> None:
    with pytest.raises(Unavailable) as caught:
        raise_in_store(error)
    assert type(caught.value) is Unavailable


# HostUnreachable, HostNotFound, NetworkTimeout, ShutdownInProgress, WriteConflict,
# NetworkInterfaceExceededTimeLimit, SocketException, OutOfDiskSpace.
PASSING = (6, 7, 43, 89, 91, 112, 134, 175, 202, 237, 9001, 14031)


@pytest.mark.parametrize("code", PASSING)
def test_server_that_cannot_do_it_now_is_waited_for(code: int) -> None:
    """Each had become a dead letter, with all that was in its batch."""
    with pytest.raises(Unavailable, match=str(code)):
        raise_in_store(mongo.OperationFailure("now", code))


def bulk(*codes: int, concern: bool = False) -> mongo.BulkWriteError:
    concerns = [{"code": 64, "errmsg": "no majority"}] if concern else []
    errors = [{"index": i, "code": code, "errmsg": "?"} for i, code in enumerate(codes)]
    return mongo.BulkWriteError({"writeErrors": errors, "writeConcernErrors": concerns})


@pytest.mark.parametrize("error", [bulk(14031), bulk(11000, 112), bulk(concern=True)], ids=str)
def test_batch_that_failed_for_a_passing_reason_is_waited_for(error: Exception) -> None:
    with pytest.raises(Unavailable):
        raise_in_store(error)


def test_batch_that_is_forbidden_says_so() -> None:
    with pytest.raises(StoreRefused):
        raise_in_store(bulk(13))


@pytest.mark.parametrize(
    "error",
    [mongo.DuplicateKeyError("twice", 11000), mongo.OperationFailure("no", 9), bulk(11000)],
    ids=str,
)
def test_fault_of_what_was_written_is_let_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        raise_in_store(error)
    assert caught.value is error
