"""Describes a wrong setting: its name, what was found, what was expected; never a secret."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

from config.kafka_security import CASES

Path = tuple[str, ...]


def secret_paths(annotation: Any, above: Path = ()) -> frozenset[Path]:
    """Find every SecretStr in a model and in the models below it."""
    return frozenset(_secrets(annotation, above))


def describe_fault(
    error: Mapping[str, Any], prefix: str, common: Mapping[Path, str], secrets: frozenset[Path]
) -> str:
    """Describe one of pydantic's errors, with the setting's name.

    `common` names settings that have a name without `prefix`.
    """
    parts = tuple(str(part) for part in error["loc"])
    path = tuple(
        part
        for index, part in enumerate(parts)
        if not (index == 2 and parts[:2] == ("kafka", "security") and part in CASES)
    )
    name = common.get(path[:2], prefix + "__".join(path).upper())
    return f"{name}: found {_shown(path, error, secrets)}, expected: {error['msg']}"


def _shown(path: Path, error: Mapping[str, Any], secrets: frozenset[Path]) -> str:
    value = error["input"]
    if error["type"] == "missing":
        return "nothing"
    if any(path[: len(secret)] == secret for secret in secrets):
        return "a secret"
    if error["type"] == "extra_forbidden":
        # The name is mistyped, so its value may be a secret.
        return "a value"
    if isinstance(value, dict):
        return f"a group of {', '.join(map(str, value)) or 'nothing'}"
    if any(secret[: len(path)] == path for secret in secrets):
        # A group is expected here, and one of its members is a secret.
        return f"no group but a {type(value).__name__}"
    if isinstance(value, str) and "@" in value:
        return "a value with an @ in it"  # A password may stand before it, as in an address.
    return repr(value)


def _secrets(annotation: Any, above: Path) -> Iterator[Path]:
    if annotation is SecretStr:
        yield above
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from _secrets(field.annotation, (*above, name))
    else:
        for inner in get_args(annotation):
            yield from _secrets(inner, above)
