"""Where a template names `.Response`. The last turn is rendered up to there."""

from collections.abc import Sequence

from pipeline.hosting.server.go_template.syntax import (
    Call,
    Expression,
    If,
    Node,
    Output,
    Range,
    Reference,
    Text,
)

RESPONSE = Output(Reference(".", ("Response",)))


def mentions(nodes: Sequence[Node], field: str) -> bool:
    """Say whether any of the nodes refers to a field of this name."""
    return any(_node_mentions(node, field) for node in nodes)


def _node_mentions(node: Node, field: str) -> bool:
    if isinstance(node, Text):
        return False
    if isinstance(node, Output):
        return _expression_mentions(node.value, field)
    head = node.condition if isinstance(node, If) else node.over
    body = node.then if isinstance(node, If) else node.body
    return _expression_mentions(head, field) or mentions((*body, *node.otherwise), field)


def _expression_mentions(expression: Expression, field: str) -> bool:
    if isinstance(expression, Call):
        return any(_expression_mentions(argument, field) for argument in expression.arguments)
    return isinstance(expression, Reference) and field in expression.fields


def cut_after_response(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], bool]:
    """Return the nodes up to the first mention of `.Response`, and whether there was one."""
    kept: list[Node] = []
    for node in nodes:
        node, is_cut = _cut_node(node)
        kept.append(node)
        if is_cut:
            return tuple(kept), True
    return tuple(kept), False


def _cut_node(node: Node) -> tuple[Node, bool]:
    if not _node_mentions(node, "Response") or isinstance(node, Text | Output):
        return node, isinstance(node, Output) and node == RESPONSE
    if isinstance(node, Range):
        body, _ = cut_after_response(node.body)
        return Range(node.index, node.item, node.over, body, ()), True
    if _expression_mentions(node.condition, "Response"):
        return If(node.condition, (), ()), True
    then, is_cut = cut_after_response(node.then)
    otherwise, _ = ((), True) if is_cut else cut_after_response(node.otherwise)
    return If(node.condition, then, otherwise), True
