"""Converts a stable code, as events and replies carry it, back to the error."""

from schemas.errors.reactions import ModelServerError


def error_of(code: str, message: str) -> ModelServerError:
    """Build the error with this code; an unknown code gives a ModelServerError."""
    return _by_code(ModelServerError).get(code, ModelServerError)(message)


def _by_code(root: type[ModelServerError]) -> dict[str, type[ModelServerError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found
