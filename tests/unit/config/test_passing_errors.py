"""Which errors of a server are waited for, and which are the end of a record."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import ollama
import pytest
from pymongo import errors as mongo

from pipeline.hosting.ollama_errors import ollama_errors
from pipeline.storage.mongo import store_errors
from schemas.errors import (
    ModelNotReady,
    ModelServerError,
    OllamaFailed,
    OllamaRefused,
    OllamaUnavailable,
    StoreRefused,
)
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


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (ollama.ResponseError("not found", 404), ModelNotReady),
        (ollama.ResponseError("bad request", 400), OllamaRefused),
        (json.JSONDecodeError("a proxy's page", "<html>", 0), OllamaUnavailable),
        (ollama.ResponseError("timed out", 408), OllamaUnavailable),
        (ollama.ResponseError("busy", 429), OllamaUnavailable),
        (ollama.ResponseError("overloaded", 503), OllamaUnavailable),
        (ollama.ResponseError("a proxy's", 502), OllamaUnavailable),
        (ollama.ResponseError("the runner cannot load it", 500), OllamaFailed),
        # In the middle of a stream an error comes without a status.
        (ollama.ResponseError("the runner has ended"), OllamaFailed),
        (httpx.ReadTimeout("slow"), OllamaUnavailable),
    ],
    ids=repr,
)
def test_ollama_that_may_do_it_later_is_waited_for(
    error: Exception, becomes: Callable[..., Any]
) -> None:
    with pytest.raises(Exception) as caught, ollama_errors():  # its type is what matters
        raise error
    assert type(caught.value) is becomes


NO_ADAPTERS = "LoRA adapters are no longer supported"


@pytest.mark.parametrize("status", [400, 500, 503])
def test_ollamas_own_sentence_is_kept(status: int) -> None:
    with pytest.raises(ModelServerError, match=NO_ADAPTERS), ollama_errors(["You are old."]):
        raise ollama.ResponseError(NO_ADAPTERS, status)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("I was born in Stromness.", 'cannot parse "I was born in Stromness."'),
        ("我生在绍兴。", "bad prompt: 绍兴"),
        ("Zoë", "bad name Zoë"),
    ],
)
def test_sentence_that_quotes_what_was_said_is_not_kept(said: str, sentence: str) -> None:
    with pytest.raises(OllamaRefused) as caught, ollama_errors(["something else", said]):
        raise ollama.ResponseError(sentence, 400)
    assert sentence not in caught.value.message and said not in caught.value.message


def test_page_of_a_proxy_is_not_kept() -> None:
    with pytest.raises(OllamaFailed) as caught, ollama_errors():
        raise ollama.ResponseError("<html>\n<body>secret</body></html>", 500)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("body", ['{"error": {"message": "no upstream"}}', '{"error": null}', "{}"])
@pytest.mark.parametrize(
    ("status", "becomes"), [(503, OllamaUnavailable), (500, OllamaFailed), (400, OllamaRefused)]
)
def test_error_of_a_proxy_may_have_any_shape(
    body: str, status: int, becomes: type[Exception]
) -> None:
    with pytest.raises(Exception) as caught, ollama_errors():  # its type is what matters
        raise ollama.ResponseError(body, status)
    assert type(caught.value) is becomes
