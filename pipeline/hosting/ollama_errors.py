"""Turns errors of Ollama's client into the service's own, by what can be done about them."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import httpx
import ijson
import ollama

from schemas.errors import ModelNotReady, OllamaFailed, OllamaRefused, OllamaUnavailable

# Ollama looks an unknown base up in its registry on the network, which fails with status 500.
_UNKNOWN_BASE = "pull model manifest"
# Worth a retry: Request Timeout, Too Many Requests, a proxy without a reachable server behind it,
# or Ollama with a full queue.
_BUSY_STATUSES = frozenset({408, 429, 502, 503, 504})
# Authentication failed; the request itself is fine. Retry until an operator fixes the credentials.
_UNAUTHORIZED_STATUSES = frozenset({401, 403, 407})
_MAX_MESSAGE_CHARACTERS = 300
# A message that shares this many characters in a row with a text is taken to quote it.
_QUOTATION_CHARACTERS = 16
_HTML_PAGE = re.compile(r"<(!doctype|html)", re.IGNORECASE)


@contextmanager
def ollama_errors(said: Iterable[str] = ()) -> Iterator[None]:
    """Convert errors of Ollama's client in the context.

    Ollama's own message is kept unless it quotes one of the texts in `said`, which were sent to
    the model.

    Raises:
        ModelNotReady: the model or its base is unknown.
        OllamaRefused: a request error (4xx); a retry will not help.
        OllamaFailed: a server error (5xx).
        OllamaUnavailable: not reachable, busy, or the credentials are refused; worth a retry.
    """
    try:
        yield
    except ollama.ResponseError as error:
        if error.status_code == 404 or _UNKNOWN_BASE in _text(error):
            raise ModelNotReady("Ollama has no such model; train it first") from error
        if error.status_code in _UNAUTHORIZED_STATUSES:
            raise OllamaUnavailable(
                f"Ollama, or a proxy before it, refuses this client ({error.status_code}); check "
                "OLLAMA_HOST and what it lets in"
            ) from error
        message = redacted_message(error, said)
        # The client reports an error in the middle of a stream with status -1.
        status = f" ({error.status_code})" if error.status_code > 0 else ""
        if error.status_code in _BUSY_STATUSES:
            raise OllamaUnavailable(f"Ollama is busy or away{status}: {message}") from error
        if 400 <= error.status_code < 500:
            raise OllamaRefused(f"Ollama refused the call{status}: {message}") from error
        raise OllamaFailed(f"Ollama failed{status}: {message}") from error
    except (httpx.HTTPError, ConnectionError) as error:
        raise OllamaUnavailable(
            f"Ollama cannot be reached ({type(error).__name__}); check OLLAMA_HOST, or "
            "MODELSERVER_HOST__URL"
        ) from error
    except (json.JSONDecodeError, ijson.JSONError) as error:
        raise OllamaUnavailable(
            "what answers in Ollama's place speaks no JSON; check OLLAMA_HOST and any proxy"
        ) from error


def redacted_message(error: ollama.ResponseError, said: Iterable[str]) -> str:
    """Return Ollama's message on one line, without anything an elder or a family said."""
    message = " ".join(_text(error).split())[:_MAX_MESSAGE_CHARACTERS]
    if _HTML_PAGE.match(message):
        return "no reason, but a page"
    if any(_is_quoted(message, text) for text in said):
        return "a reason that quotes what was said; see its log"
    return message or "no reason given"


def _text(error: ollama.ResponseError) -> str:
    """Return the `error` field as text: a proxy may put an object or null there."""
    told: object = error.error
    return told if isinstance(told, str) else json.dumps(told)


def _is_quoted(message: str, text: str) -> bool:
    """Whether a message quotes a text: `_QUOTATION_CHARACTERS` characters in a row are the same.

    Ollama's own messages are ASCII, so a single shared character beyond ASCII is enough.
    """
    if any(character in text for character in message if not character.isascii()):
        return True
    folded = " ".join(text.split())
    starts = range(max(1, len(message) - _QUOTATION_CHARACTERS + 1))
    return any(message[i : i + _QUOTATION_CHARACTERS] in folded for i in starts if message)
