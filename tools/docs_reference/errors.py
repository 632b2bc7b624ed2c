"""The page of the error codes, by the reaction that each asks for."""

from collections.abc import Iterator

from schemas.errors import FatalError, Interrupted, ModelServerError, RejectError, RetryError
from tools.docs_reference.markdown import code, page, prose, table

_INTRODUCTION = """\
# Errors

Events, replies and dead letters carry a code; the message beside it says more about the case. A
code keeps its meaning."""
_REACTIONS: dict[type[ModelServerError], str] = {
    RetryError: """\
## Retry

A dependency is down. The work waits and goes on by itself; it is neither refused nor lost. A
command ends with exit code 69.""",
    RejectError: """\
## Reject

The record or the work is at fault. A record becomes a dead letter, a request gets an error reply,
a job ends as failed, some after further attempts; then the next one is taken. A command ends with
exit code 1.""",
    FatalError: """\
## Fatal

The configuration is wrong. The program says so and ends with exit code 78.""",
    Interrupted: """\
## Interrupted

Not a failure: the work was stopped from outside.""",
}


def errors_page() -> str:
    """Render the page."""
    sections: list[str] = []
    for root, introduction in _REACTIONS.items():
        rows = [(code(error.code), *_meaning(error)) for error in errors_below(root)]
        sections += [introduction, table(["code", "meaning", "what to do"], rows)]
    return page(_INTRODUCTION, *sections)


def errors_below(root: type[ModelServerError]) -> Iterator[type[ModelServerError]]:
    """Yield a class of the catalogue and all below it, each parent before its children."""
    if root.__module__ == ModelServerError.__module__:
        yield root
    for child in root.__subclasses__():
        yield from errors_below(child)


def _meaning(error: type[ModelServerError]) -> tuple[str, str]:
    """Split a docstring at its first semicolon: what happened, and what to do."""
    meaning, _, remedy = prose(error.__doc__).partition("; ")
    return meaning.removesuffix(".") + ".", remedy[:1].upper() + remedy[1:]
