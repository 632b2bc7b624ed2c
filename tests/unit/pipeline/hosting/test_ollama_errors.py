"""Which errors of Ollama are waited for, and what is kept of its own sentence."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import ollama
import pytest

from pipeline.hosting.ollama_errors import ollama_errors
from schemas.errors import (
    ModelNotReady,
    ModelServerError,
    OllamaFailed,
    OllamaRefused,
    OllamaUnavailable,
)


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
