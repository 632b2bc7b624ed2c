"""Renders a syntax tree with values, by the rules of Go's text/template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.hosting.server.go_template.syntax import (
    Call,
    Expression,
    If,
    Literal,
    Node,
    Output,
    Range,
    Reference,
    Text,
)

Scope = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The current value of the dot, and the variables in scope."""

    dot: object
    variables: Scope


def render_nodes(nodes: Sequence[Node], values: Scope) -> str:
    """Render nodes; `values` are the fields of the root, such as `System`."""
    out: list[str] = []
    _write(nodes, _Frame(values, {"$": values}), out)
    return "".join(out)


def _write(nodes: Sequence[Node], frame: _Frame, out: list[str]) -> None:
    for node in nodes:
        if isinstance(node, Text):
            out.append(node.text)
        elif isinstance(node, Output):
            out.append(_as_text(_evaluate(node.value, frame)))
        elif isinstance(node, If):
            is_true = bool(_evaluate(node.condition, frame))
            _write(node.then if is_true else node.otherwise, frame, out)
        else:
            _write_range(node, frame, out)


def _write_range(node: Range, frame: _Frame, out: list[str]) -> None:
    items = _evaluate(node.over, frame)
    if not isinstance(items, list) or not items:
        _write(node.otherwise, frame, out)
        return
    for index, item in enumerate(items):
        named = {node.index: index, node.item: item}
        _write(node.body, _Frame(item, {**frame.variables, **named}), out)


def _evaluate(expression: Expression, frame: _Frame) -> object:
    if isinstance(expression, Literal):
        return expression.value
    if isinstance(expression, Reference):
        return _look_up(expression, frame)
    arguments = [_evaluate(argument, frame) for argument in expression.arguments]
    return _call(expression, arguments)


def _call(call: Call, arguments: list[object]) -> object:
    first, *rest = arguments
    if call.function == "not":
        return not first
    if call.function == "eq":
        return any(first == other for other in rest)
    if call.function == "ne":
        return first != rest[0]
    # As in Go, the deciding argument itself is the result, not a boolean.
    decides = bool if call.function == "or" else _is_false
    return next((a for a in arguments if decides(a)), arguments[-1])


def _is_false(value: object) -> bool:
    return not value


def _look_up(reference: Reference, frame: _Frame) -> object:
    value = frame.dot if reference.root == "." else frame.variables.get(reference.root)
    for field in reference.fields:
        value = value.get(field, "") if isinstance(value, Mapping) else ""
    return value


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else ""
