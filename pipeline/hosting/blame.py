"""Whose failure it is when a host answers with an error: the host's, or one model's alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.hosting.port import ModelHost
from schemas.errors import HostFailed, ModelServerError, OllamaFailed, RetryError
from schemas.identifiers import is_passing, model_name

_ASK_ANYTHING = [{"role": "user", "content": "."}]


@contextmanager
def blamed(host: ModelHost, elder_id: str, num_ctx: int) -> Iterator[None]:
    """Turn a failure of the host at one elder's models into HostFailed, where it is well else.

    Waiting does not help where the host's version and another model answer; where they do not,
    the host is what fails, and is waited for. `num_ctx` is the window with which the other model
    is asked.
    """
    try:
        yield
    except OllamaFailed as error:
        if _is_otherwise_well(host, elder_id, num_ctx):
            raise HostFailed(error.message) from error
        raise


def _is_otherwise_well(host: ModelHost, elder_id: str, num_ctx: int) -> bool:
    try:
        host.describe()
        other = _another(host, elder_id)
        if other is not None:
            host.ask(other, _ASK_ANYTHING, {"num_predict": 1, "num_ctx": num_ctx})
    except RetryError:
        return False
    except ModelServerError:
        return True  # It vanished meanwhile, or refuses the question: the host answers.
    return True


def _another(host: ModelHost, elder_id: str) -> str | None:
    """Another's model, one in memory if there is one: asking it throws nobody out."""
    own = f"{model_name(elder_id)}:"
    loaded = [model.name for model in host.loaded()]
    for names in (loaded, host.tags()):
        for name in names:
            if not name.startswith(own) and not is_passing(name):
                return name
    return None
