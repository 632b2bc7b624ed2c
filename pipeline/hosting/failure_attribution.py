"""Attributes a failure of a host: to the host itself, or to one elder's models alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.hosting.port import ModelHost
from schemas.errors import HostFailed, ModelServerError, OllamaFailed, RetryError
from schemas.identifiers import is_passing, model_name

_ANY_QUESTION = [{"role": "user", "content": "."}]


@contextmanager
def attributed_failures(host: ModelHost, elder_id: str, num_ctx: int) -> Iterator[None]:
    """Turn OllamaFailed into HostFailed if the host is healthy apart from one elder's models.

    The host counts as healthy if it reports its version and another elder's model answers. Then a
    retry does not help. Otherwise OllamaFailed passes, and the caller retries.

    Args:
        host: the host that is used in the context.
        elder_id: the elder whose models are used in the context.
        num_ctx: tokens of context for the request to the other model.
    """
    try:
        yield
    except OllamaFailed as error:
        if _is_healthy_otherwise(host, elder_id, num_ctx):
            raise HostFailed(error.message) from error
        raise


def _is_healthy_otherwise(host: ModelHost, elder_id: str, num_ctx: int) -> bool:
    try:
        host.describe()
        other = _other_model(host, elder_id)
        if other is not None:
            host.ask(other, _ANY_QUESTION, {"num_predict": 1, "num_ctx": num_ctx})
    except RetryError:
        return False
    except ModelServerError:
        return True  # The model vanished or refused the request: the host does answer.
    return True


def _other_model(host: ModelHost, elder_id: str) -> str | None:
    """Return another elder's model, preferably a loaded one, so that no model is evicted."""
    own = f"{model_name(elder_id)}:"
    loaded = [model.name for model in host.loaded()]
    for names in (loaded, host.tags()):
        for name in names:
            if not name.startswith(own) and not is_passing(name):
                return name
    return None
