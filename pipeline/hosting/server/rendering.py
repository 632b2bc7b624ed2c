"""From messages to a prompt, with Ollama's rules for templates.

A template that names `.Messages` is rendered once, over all of them. One that does not is rendered
once a turn, with `.System`, `.Prompt` and `.Response`, and the last time only up to `.Response`:
from there on the model speaks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pipeline.hosting.server.shapes import Turn
from pipeline.hosting.server.template import (
    Call,
    Expression,
    If,
    Literal,
    Node,
    Output,
    Range,
    Reference,
    Text,
    parse_template,
)

_RESPONSE = Output(Reference(".", ("Response",)))
Scope = Mapping[str, object]


class PromptTemplate:
    """A parsed template, ready to turn conversations into prompts."""

    def __init__(self, source: str) -> None:
        """Parse the template.

        Raises:
            TemplateError: it is wrong, or uses what is not understood here.
        """
        nodes = parse_template(source)
        self._is_over_messages = _mentions(nodes, "Messages")
        if not self._is_over_messages and not _mentions(nodes, "Response"):
            nodes = (*nodes, _RESPONSE)
        self._nodes = nodes
        self._last_turn, _ = _cut_after_response(nodes)

    def render(self, turns: Sequence[Turn]) -> str:
        """Return the prompt for a conversation."""
        system, merged = _merge(turns)
        if self._is_over_messages:
            messages = [{"Role": turn.role, "Content": turn.content} for turn in merged]
            return _render(self._nodes, {"System": system, "Messages": messages, "Response": ""})
        return self._render_turn_by_turn(merged)

    def _render_turn_by_turn(self, turns: Sequence[Turn]) -> str:
        prompt: list[str] = []
        values = dict.fromkeys(("System", "Prompt", "Response"), "")

        def flush() -> None:
            prompt.append(_render(self._nodes, dict(values)))
            values.update(System="", Prompt="", Response="")

        for turn in turns:
            if turn.role == "system":
                if values["Prompt"] or values["Response"]:
                    flush()
                values["System"] = turn.content
            elif turn.role == "user":
                if values["Response"]:
                    flush()
                values["Prompt"] = turn.content
            elif turn.role == "assistant":
                values["Response"] = turn.content
        prompt.append(_render(self._last_turn, values))
        return "".join(prompt)


@lru_cache(maxsize=256)
def compile_template(source: str) -> PromptTemplate:
    """Return the template, parsed once.

    Raises:
        TemplateError: it is wrong, or uses what is not understood here.
    """
    return PromptTemplate(source)


def fit_prompt(
    template: PromptTemplate,
    turns: Sequence[Turn],
    token_limit: int,
    count_tokens: Callable[[str], int],
) -> str:
    """Return the prompt, without the oldest turns if it is too long otherwise.

    What the system says, and the last turn, always stay; so it may still be too long.
    """
    for first in range(len(turns)):
        kept = [turn for turn in turns[:first] if turn.role == "system"]
        prompt = template.render([*kept, *turns[first:]])
        # A token is at least a byte: most prompts need not be counted.
        if len(prompt.encode()) < token_limit or count_tokens(prompt) <= token_limit:
            break
    return prompt if turns else template.render(())


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where rendering stands: the dot, and the variables."""

    dot: object
    variables: Scope


def _render(nodes: Sequence[Node], values: Scope) -> str:
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
    # Like Go's: the argument that decides, not true or false.
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


def _merge(turns: Sequence[Turn]) -> tuple[str, list[Turn]]:
    """Join neighbours of one role; return all system texts too, as one."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            joined = f"{merged[-1].content}\n\n{turn.content}"
            merged[-1] = Turn(role=turn.role, content=joined)
        else:
            merged.append(turn)
    return "\n\n".join(turn.content for turn in turns if turn.role == "system"), merged


def _mentions(nodes: Sequence[Node], field: str) -> bool:
    return any(_node_mentions(node, field) for node in nodes)


def _node_mentions(node: Node, field: str) -> bool:
    if isinstance(node, Text):
        return False
    if isinstance(node, Output):
        return _expression_mentions(node.value, field)
    head = node.condition if isinstance(node, If) else node.over
    body = node.then if isinstance(node, If) else node.body
    return _expression_mentions(head, field) or _mentions((*body, *node.otherwise), field)


def _expression_mentions(expression: Expression, field: str) -> bool:
    if isinstance(expression, Call):
        return any(_expression_mentions(argument, field) for argument in expression.arguments)
    return isinstance(expression, Reference) and field in expression.fields


def _cut_after_response(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], bool]:
    """Leave out all that stands after the first mention of `.Response`; say whether there was."""
    kept: list[Node] = []
    for node in nodes:
        node, is_cut = _cut_node(node)
        kept.append(node)
        if is_cut:
            return tuple(kept), True
    return tuple(kept), False


def _cut_node(node: Node) -> tuple[Node, bool]:
    if not _node_mentions(node, "Response") or isinstance(node, Text | Output):
        return node, isinstance(node, Output) and node == _RESPONSE
    if isinstance(node, Range):
        body, _ = _cut_after_response(node.body)
        return Range(node.index, node.item, node.over, body, ()), True
    if _expression_mentions(node.condition, "Response"):
        return If(node.condition, (), ()), True
    then, is_cut = _cut_after_response(node.then)
    otherwise, _ = ((), True) if is_cut else _cut_after_response(node.otherwise)
    return If(node.condition, then, otherwise), True
