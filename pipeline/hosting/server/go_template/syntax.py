"""The syntax tree of a parsed template, and the error of a template that cannot be parsed."""

from dataclasses import dataclass


class TemplateError(ValueError):
    """The template is malformed, or uses an unsupported construct."""


@dataclass(frozen=True, slots=True)
class Text:
    """Literal text outside actions."""

    text: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A string or a whole number."""

    value: str | int


@dataclass(frozen=True, slots=True)
class Reference:
    """A field or variable: `$m.Role` has root `$m` and fields (Role,); `.Role` has root `.`."""

    root: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments."""

    function: str
    arguments: tuple["Expression", ...]


Expression = Literal | Reference | Call


@dataclass(frozen=True, slots=True)
class Output:
    """`{{ X }}`."""

    value: Expression


@dataclass(frozen=True, slots=True)
class If:
    """`{{ if X }}`; an `else if` is an If inside `otherwise`."""

    condition: Expression
    then: tuple["Node", ...]
    otherwise: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Range:
    """`{{ range X }}`; `index` and `item` name its variables and may be empty."""

    index: str
    item: str
    over: Expression
    body: tuple["Node", ...]
    otherwise: tuple["Node", ...]


Node = Text | Output | If | Range
