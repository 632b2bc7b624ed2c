"""Parses the subset of Go's text/template that prompts need into a syntax tree.

Supported: text; `{{ X }}`; `{{ if X }}`, `{{ else if X }}`, `{{ else }}`, `{{ end }}`;
`{{ range X }}`, `{{ range $i, $m := X }}`; comments; the trim markers `{{-` and `-}}`. X is a
field (`.System`, `.Prompt`, `.Response`, `.Messages`, `.Role`, `.Content`), a variable
(`$`, `$m`, with fields: `$.System`), a string, a whole number, or `eq`, `ne`, `and`, `or`, `not`,
with parentheses. Anything else raises TemplateError: an error at `create` is better than a prompt
that differs from the one Ollama would render.
"""

import json
import re
from collections.abc import Iterator

from pipeline.hosting.server.go_template.syntax import (
    Call,
    Expression,
    If,
    Literal,
    Node,
    Output,
    Range,
    Reference,
    TemplateError,
    Text,
)

FIELDS = frozenset({"System", "Prompt", "Response", "Messages", "Role", "Content"})
FUNCTIONS = frozenset({"eq", "ne", "and", "or", "not"})

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<number>-?\d+)
      | (?P<path>\$?[A-Za-z_]\w*(?:\.\w+)*|\$(?:\.\w+)*|(?:\.\w+)+|\.)
      | (?P<mark>:=|[(),])
    )""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"/\*.*\*/", re.DOTALL)
_ARITY = {"eq": 2, "ne": 2, "not": 1, "and": 1, "or": 1}


def parse_template(source: str) -> tuple[Node, ...]:
    """Parse a template.

    Raises:
        TemplateError: it is malformed, or uses an unsupported construct.
    """
    return _Parser(source).parse()


class _Parser:
    def __init__(self, source: str) -> None:
        self._parts = list(_split(source))
        self._at = 0
        self._variables = ["$"]

    def parse(self) -> tuple[Node, ...]:
        nodes, closing = self._block()
        if closing:
            raise TemplateError(f"unexpected {{{{ {closing} }}}}")
        return nodes

    def _block(self) -> tuple[tuple[Node, ...], str]:
        """Parse until `else…` or `end`; return the nodes and the action that closed the block."""
        nodes: list[Node] = []
        while self._at < len(self._parts):
            part = self._parts[self._at]
            self._at += 1
            if isinstance(part, Text):
                nodes.append(part)
            elif part == "end" or part.split(maxsplit=1)[0] == "else":
                return tuple(nodes), part
            else:
                nodes.append(self._action(part))
        return tuple(nodes), ""

    def _action(self, action: str) -> Node:
        word, _, rest = action.partition(" ")
        if word == "if":
            return self._if(rest)
        if word == "range":
            return self._range(rest)
        return Output(self._expression(action))

    def _if(self, condition: str) -> If:
        expression = self._expression(condition)
        then, closing = self._block()
        return If(expression, then, self._otherwise(closing))

    def _otherwise(self, closing: str) -> tuple[Node, ...]:
        """Parse what follows `else` or `else if`; return no nodes if `end` closed the block."""
        if closing == "end":
            return ()
        words = closing.split(maxsplit=2)
        if words[:2] == ["else", "if"] and len(words) == 3:
            return (self._if(words[2]),)
        if words != ["else"]:
            raise TemplateError(f"not understood: {closing!r}" if closing else "unclosed action")
        nodes, closing = self._block()
        if closing != "end":
            raise TemplateError("unclosed action")
        return nodes

    def _range(self, clause: str) -> Range:
        names, assigns, over = clause.rpartition(":=")
        variables = [name.strip() for name in names.split(",")] if assigns else []
        if len(variables) > 2 or not all(re.fullmatch(r"\$\w+", name) for name in variables):
            raise TemplateError(f"not understood: range {clause}")
        expression = self._expression(over)
        known = len(self._variables)
        self._variables += variables
        body, closing = self._block()
        del self._variables[known:]
        otherwise = self._otherwise(closing)
        index, item = ["", "", *variables][-2:]
        return Range(index, item, expression, body, otherwise)

    def _expression(self, source: str) -> Expression:
        tokens = list(_tokens(source))
        expression = self._operand_or_call(tokens)
        if tokens:
            raise TemplateError(f"not understood: {source!r}")
        return expression

    def _operand_or_call(self, tokens: list[str]) -> Expression:
        if not tokens or tokens[0] not in FUNCTIONS:
            return self._operand(tokens)
        function = tokens.pop(0)
        arguments: list[Expression] = []
        while tokens and tokens[0] != ")":
            arguments.append(self._operand(tokens))
        if len(arguments) < _ARITY[function] or (function == "not" and len(arguments) > 1):
            raise TemplateError(f"wrong number of arguments for {function}")
        return Call(function, tuple(arguments))

    def _operand(self, tokens: list[str]) -> Expression:
        token = tokens.pop(0) if tokens else ""
        if token == "(":  # noqa: S105 - a bracket of the template language, no secret
            inner = self._operand_or_call(tokens)
            if not tokens or tokens.pop(0) != ")":
                raise TemplateError("unclosed parenthesis")
            return inner
        if token[:1] == '"':
            return Literal(_unquote(token))
        if token[:1] == "`":
            return Literal(token[1:-1])
        if token.lstrip("-").isdigit():
            return Literal(int(token))
        return self._reference(token)

    def _reference(self, token: str) -> Reference:
        root, *fields = token.split(".")
        if not token or (not root and token[0] != "."):
            raise TemplateError("missing value")
        fields = [field for field in fields if field]
        if (root and root not in self._variables) or not FIELDS.issuperset(fields):
            raise TemplateError(f"not understood: {token!r}")
        return Reference(root or ".", tuple(fields))


def _split(source: str) -> Iterator[Text | str]:
    """Split into text and actions; apply trim markers and drop comments."""
    at, trims_left = 0, False
    for match in _ACTION.finditer(source):
        text = source[at : match.start()]
        yield from _text(text, trims_left, bool(match[1]))
        if not match[2]:
            raise TemplateError("missing value for command")
        if not _COMMENT.fullmatch(match[2]):
            yield match[2]
        at, trims_left = match.end(), bool(match[3])
    rest = source[at:]
    if "{{" in rest:
        raise TemplateError("unclosed action")
    yield from _text(rest, trims_left, False)


def _text(text: str, trims_left: bool, trims_right: bool) -> Iterator[Text]:
    blank = " \t\r\n"
    text = text.lstrip(blank) if trims_left else text
    text = text.rstrip(blank) if trims_right else text
    if text:
        yield Text(text)


def _tokens(source: str) -> Iterator[str]:
    at = 0
    while at < len(source.rstrip()):
        match = _TOKEN.match(source, at)
        if match is None:
            raise TemplateError(f"not understood: {source!r}")
        yield match[0].strip()
        at = match.end()


def _unquote(token: str) -> str:
    try:
        text = json.loads(token)
    except ValueError as error:
        raise TemplateError(f"not understood: {token}") from error
    return str(text)
