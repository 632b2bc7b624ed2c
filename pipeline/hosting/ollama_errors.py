"""Errors of Ollama's client, by the reaction they ask for; Ollama's own sentence is kept."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import httpx
import ijson
import ollama

from schemas.errors import ModelNotReady, OllamaFailed, OllamaRefused, OllamaUnavailable

# Ollama looks for an unknown base in the registry on the network, which fails with status 500.
_UNKNOWN_BASE = "pull model manifest"
# A later try can succeed: Request Timeout, Too Many Requests, a proxy that cannot reach its
# server, and an Ollama whose queue is full.
_BUSY = frozenset({408, 429, 502, 503, 504})
# Authentication failed; the request itself is fine. Retry until an operator fixes it.
_UNAUTHENTICATED = frozenset({401, 403, 407})
_LONGEST_SENTENCE = 300
_QUOTED = 16
_QUOTES_A_PAGE = re.compile(r"<(!doctype|html)", re.IGNORECASE)


@contextmanager
def ollama_errors(said: Iterable[str] = ()) -> Iterator[None]:
    """Turn the client's errors into ours: unknown model, refused, failed, or not reached.

    Ollama's own sentence is kept, unless it quotes what was `said` to a model.
    """
    try:
        yield
    except ollama.ResponseError as error:
        if error.status_code == 404 or _UNKNOWN_BASE in _text(error):
            raise ModelNotReady("Ollama has no such model; train it first") from error
        if error.status_code in _UNAUTHENTICATED:
            raise OllamaUnavailable(
                f"Ollama, or a proxy before it, refuses this client ({error.status_code}); check "
                "OLLAMA_HOST and what it lets in"
            ) from error
        sentence = sentence_of(error, said)
        # -1 is what the client says of an error in the middle of a stream.
        status = f" ({error.status_code})" if error.status_code > 0 else ""
        if error.status_code in _BUSY:
            raise OllamaUnavailable(f"Ollama is busy or away{status}: {sentence}") from error
        if 400 <= error.status_code < 500:
            raise OllamaRefused(f"Ollama refused the call{status}: {sentence}") from error
        raise OllamaFailed(f"Ollama failed{status}: {sentence}") from error
    except (httpx.HTTPError, ConnectionError) as error:
        raise OllamaUnavailable(
            f"Ollama cannot be reached ({type(error).__name__}); check OLLAMA_HOST, or "
            "MODELSERVER_HOST__URL"
        ) from error
    except (json.JSONDecodeError, ijson.JSONError) as error:
        raise OllamaUnavailable(
            "what answers in Ollama's place speaks no JSON; check OLLAMA_HOST and any proxy"
        ) from error


def sentence_of(error: ollama.ResponseError, said: Iterable[str]) -> str:
    """Return Ollama's sentence on one line, without anything that an elder or a family said."""
    sentence = " ".join(_text(error).split())[:_LONGEST_SENTENCE]
    if _QUOTES_A_PAGE.match(sentence):
        return "no reason, but a page"
    if any(_is_quoted(sentence, text) for text in said):
        return "a reason that quotes what was said; see its log"
    return sentence or "no reason given"


def _text(error: ollama.ResponseError) -> str:
    """Return what the answer has under `error`; a proxy may put an object or nothing there."""
    told: object = error.error
    return told if isinstance(told, str) else json.dumps(told)


def _is_quoted(sentence: str, text: str) -> bool:
    """Say whether a sentence shares `_QUOTED` characters in a row with a text.

    Ollama's own sentences are plain ASCII: of others one character is enough.
    """
    if any(character in text for character in sentence if not character.isascii()):
        return True
    folded = " ".join(text.split())
    starts = range(max(1, len(sentence) - _QUOTED + 1))
    return any(sentence[i : i + _QUOTED] in folded for i in starts if sentence)
