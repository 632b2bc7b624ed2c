"""MongoDB's filters, expressions and updates, as far as the ledger uses them.

It owns no documents: every function takes one and returns one or an answer. What it does not know
it refuses, so that no test passes on a guessed meaning. It also refuses what one of the two real
stores is known to do differently: an expression compares dates as numbers (`$toLong`) or not
at all; a filter may compare a date with a given one.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import Int64

Document = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NotInTheFake(NotImplementedError):
    """The fake store does not support this; add it, with a contract test."""


class Missing:
    """The type of MISSING, the value of a missing field: an expression tells it from null."""


MISSING = Missing()
_KINDS: dict[type, str] = {
    type(None): "null",
    Missing: "null",
    bool: "bool",
    int: "number",
    float: "number",
    Int64: "number",
    str: "string",
    datetime: "date",
    list: "array",
    dict: "object",
}


def value_at(document: Document, path: str) -> Any:
    """Follow a dotted path through documents; MISSING where it ends early."""
    if "." not in path:
        return document.get(path, MISSING)
    found: Any = document
    for name in path.split("."):
        if isinstance(found, list):
            raise NotInTheFake(f"a path through a list: {path}")
        found = found.get(name, MISSING) if isinstance(found, dict) else MISSING
    return found


def kind(value: Any) -> str:
    """Name a value's BSON type, as far as values of different types are never equal."""
    known = _KINDS.get(type(value))
    if known is None:
        raise NotInTheFake(f"a value of type {type(value).__name__}")
    return known


def is_same(left: Any, right: Any) -> bool:
    """Say whether values are equal in a filter: null equals a missing field; true is no number."""
    of_left = kind(left)
    if of_left != kind(right):
        return False
    return of_left == "null" or bool(left == right)


# Filters ------------------------------------------------------------------------------------


def matches(document: Document, condition: Document, now: datetime) -> bool:
    """Say whether a filter matches a document."""
    return all(_matches_one(document, n, wanted, now) for n, wanted in condition.items())


def _matches_one(document: Document, name: str, wanted: Any, now: datetime) -> bool:
    if name == "$expr":
        return bool(evaluate(wanted, document, now))
    if name.startswith("$"):
        raise NotInTheFake(f"filter {name}")
    found = value_at(document, name)
    if isinstance(wanted, dict):
        if not wanted:
            raise NotInTheFake("equality with a document")
        return all(_holds(operator, found, operand) for operator, operand in wanted.items())
    return _equals(found, wanted)


def _equals(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, (list, dict)):
        raise NotInTheFake("equality with a list or a document")
    if isinstance(found, list):
        return any(is_same(one, wanted) for one in found)
    return is_same(found, wanted)


def _holds(operator: str, found: Any, operand: Any) -> bool:
    if operator == "$nin":
        return not any(_equals(found, one) for one in operand)
    if operator == "$ne":
        return not _equals(found, operand)
    if operator == "$in":
        return any(_equals(found, one) for one in operand)
    if operator == "$type" and operand == "date":
        return kind(found) == "date"
    if operator == "$size":
        return isinstance(found, list) and len(found) == operand
    if operator in ("$lt", "$lte", "$gt"):
        return _compares(operator, found, operand)
    raise NotInTheFake(f"filter {operator}: {operand!r}")


def _compares(operator: str, found: Any, operand: Any) -> bool:
    of_operand = kind(operand)
    if of_operand not in ("number", "date"):
        raise NotInTheFake(f"{operator} with a {of_operand}")
    if kind(found) in ("array", "object"):
        raise NotInTheFake(f"{operator} of a list or a document")
    # A filter compares values of one type only: others are neither less nor greater.
    if kind(found) != of_operand:
        return False
    return bool(
        {"$lt": found < operand, "$lte": found <= operand, "$gt": found > operand}[operator]
    )


# Expressions --------------------------------------------------------------------------------


def evaluate(expression: Any, document: Document, now: datetime) -> Any:
    """Evaluate an aggregation expression; MISSING for a missing field."""
    if isinstance(expression, str) and expression.startswith("$"):
        return _variable(expression, document, now)
    if isinstance(expression, dict):
        if len(expression) != 1:
            raise NotInTheFake(f"an expression of {len(expression)} operators")
        ((operator, operand),) = expression.items()
        return _operation(operator, operand, document, now)
    if isinstance(expression, list):
        raise NotInTheFake("a list as an expression")
    kind(expression)
    return expression


def _variable(name: str, document: Document, now: datetime) -> Any:
    if name == "$$NOW":
        return now
    if name.startswith("$$"):
        raise NotInTheFake(f"variable {name}")
    return value_at(document, name[1:])


def _operation(operator: str, operand: Any, document: Document, now: datetime) -> Any:
    if operator == "$literal":
        return operand
    if operator == "$toLong":
        return _to_long(evaluate(operand, document, now))
    known = _OF_TWO.get(operator)
    if known is None or not isinstance(operand, list) or len(operand) != 2:
        raise NotInTheFake(f"expression {operator}: {operand!r}")
    left, right = (evaluate(part, document, now) for part in operand)
    return known(left, right)


def _to_long(value: Any) -> int | None:
    if kind(value) == "null":
        return None
    if kind(value) != "date":
        raise NotInTheFake(f"$toLong of a {kind(value)}")
    since: timedelta = value - _EPOCH
    return since // timedelta(milliseconds=1)


def _if_null(value: Any, otherwise: Any) -> Any:
    return otherwise if kind(value) == "null" else value


def _less(left: Any, right: Any) -> bool:
    # In an expression, unlike in a filter, null is less than any number.
    if "null" in (kind(left), kind(right)) and {kind(left), kind(right)} <= {"null", "number"}:
        return kind(left) == "null" and kind(right) == "number"
    if kind(left) != "number" or kind(right) != "number":
        raise NotInTheFake(f"comparison of a {kind(left)} with a {kind(right)}")
    return bool(left < right)


def _add(left: Any, right: Any) -> Any:
    if "null" in (kind(left), kind(right)):
        return None
    if kind(right) != "number" or kind(left) not in ("number", "date"):
        raise NotInTheFake(f"$add of a {kind(left)} and a {kind(right)}")
    return left + (timedelta(milliseconds=right) if kind(left) == "date" else right)


def _subtract(left: Any, right: Any) -> Any:
    if "null" in (kind(left), kind(right)):
        return None
    if kind(left) != "number" or kind(right) != "number":
        raise NotInTheFake(f"$subtract of a {kind(right)} from a {kind(left)}")
    return left - right


_OF_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "$lt": _less,
    "$lte": lambda left, right: not _less(right, left),
    "$gt": lambda left, right: _less(right, left),
    "$add": _add,
    "$subtract": _subtract,
    "$ifNull": _if_null,
}


# Updates ------------------------------------------------------------------------------------


def updated(document: Document, update: Any, now: datetime) -> Document:
    """Return the document after an update, plain or a pipeline; the given one stays as it is."""
    if isinstance(update, list):
        for stage in update:
            document = _after_stage(document, stage, now)
        return document
    if not update or len({p for names in update.values() for p in names}) != sum(
        len(names) for names in update.values()
    ):
        raise NotInTheFake("an update of nothing, or of one field twice")
    after = dict(document)
    for operator, changes in update.items():
        for name, change in changes.items():
            after[_plain(name)] = _changed(operator, document.get(name, MISSING), change, now)
    return {name: value for name, value in after.items() if value is not MISSING}


def _after_stage(document: Document, stage: Document, now: datetime) -> Document:
    if list(stage) != ["$set"]:
        raise NotInTheFake(f"a pipeline stage {list(stage)}")
    values = {_plain(n): evaluate(e, document, now) for n, e in stage["$set"].items()}
    if MISSING in values.values():
        raise NotInTheFake("a field set to one that is not there")
    return document | values


def _plain(name: str) -> str:
    if "." in name or name.startswith("$") or name == "_id":
        raise NotInTheFake(f"an update of {name}")
    return name


def _changed(operator: str, found: Any, change: Any, now: datetime) -> Any:
    if operator == "$set":
        return change
    if operator == "$unset":
        return MISSING
    if operator == "$push" and isinstance(change, dict) and list(change) == ["$each"]:
        return [*_listed(found, operator), *change["$each"]]
    if operator == "$addToSet" and not isinstance(change, (list, dict)):
        known = _listed(found, operator)
        return known if any(is_same(one, change) for one in known) else [*known, change]
    if operator == "$pull" and isinstance(change, dict):
        if found is MISSING:
            return MISSING
        return [one for one in _listed(found, operator) if not matches(one, change, now)]
    raise NotInTheFake(f"update {operator}: {change!r}")


def _listed(found: Any, operator: str) -> list[Any]:
    if found is MISSING:
        return []
    if not isinstance(found, list):
        raise NotInTheFake(f"{operator} on a {kind(found)}")
    return found
