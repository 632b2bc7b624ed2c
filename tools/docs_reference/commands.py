"""The page of the commands, read from the functions that the command line registers."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from cli.main import app
from schemas.base import Frozen
from schemas.exit_codes import ExitCode
from tools.docs_reference.markdown import code, page, paragraphs, table

_INTRODUCTION = """\
# Commands

`modelserver COMMAND --help` says the same. Results go to standard output, everything else to
standard error; with `--json` the output is JSON."""
_EXAMPLE = "Example: "
_TYPES: dict[object, str] = {str: "text", int: "integer", Path: "path", bool: ""}


class Parameter(Frozen):
    """An argument or an option of a command."""

    name: str
    type: str
    is_required: bool
    default: str
    meaning: str


def commands_page() -> str:
    """Render the page."""
    rows = [(code(int(exit_code)), exit_code.meaning) for exit_code in ExitCode]
    return page(
        _INTRODUCTION,
        *(_section(words, command) for words, command in list_commands(app, ("modelserver",))),
        "## Exit codes",
        table(["code", "meaning"], rows),
    )


def list_commands(
    group: typer.Typer, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], CommandInfo]]:
    """Yield each command that is not hidden, with the words that call it."""
    for command in group.registered_commands:
        assert command.callback is not None
        if not command.hidden:
            yield (*words, command.name or command.callback.__name__), command
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        assert isinstance(inner.name, str)
        yield from list_commands(inner.typer_instance, (*words, inner.name))


def list_parameters(command: CommandInfo) -> Iterator[Parameter]:
    """Yield a command's arguments and options, in the order of its function."""
    function = command.callback
    assert function is not None
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        assert get_origin(hints[name]) is Annotated
        annotation, info = get_args(hints[name])[:2]
        assert isinstance(info, ArgumentInfo | OptionInfo)
        yield Parameter(
            name=_name(name, info),
            type=_type(annotation, info),
            is_required=parameter.default is inspect.Parameter.empty,
            default=_default(parameter.default),
            meaning=info.help or "",
        )


def _section(words: tuple[str, ...], command: CommandInfo) -> str:
    assert command.callback is not None
    parameters = list(list_parameters(command))
    text = paragraphs(command.callback.__doc__)
    examples = [part.removeprefix(_EXAMPLE) for part in text if part.startswith(_EXAMPLE)]
    rows = [
        (code(p.name), p.type, "**required**" if p.is_required else p.default, p.meaning)
        for p in parameters
    ]
    return page(
        f"## {' '.join(words)}",
        *(part for part in text if not part.startswith(_EXAMPLE)),
        _block([_usage(words, parameters)]),
        table(["parameter", "type", "default", "meaning"], rows) if rows else "",
        page("Example:", _block(examples)) if examples else "",
    )


def _usage(words: tuple[str, ...], parameters: list[Parameter]) -> str:
    arguments = [p for p in parameters if not p.name.startswith("-")]
    needed = [p for p in parameters if p.name.startswith("-") and p.is_required]
    parts = [p.name if p.is_required else f"[{p.name}]" for p in arguments]
    parts += [f"{p.name} {p.type.split()[0].upper()}" for p in needed]
    if len(parameters) > len(parts):
        parts.append("[OPTIONS]")
    return " ".join((*words, *parts))


def _name(name: str, info: ArgumentInfo | OptionInfo) -> str:
    if isinstance(info, ArgumentInfo):
        return name.upper()
    # Within Annotated the first name stands where a default would.
    first = (info.default,) if isinstance(info.default, str) else ()
    return ", ".join((*first, *(info.param_decls or ()))) or "--" + name.replace("_", "-")


def _type(annotation: Any, info: ArgumentInfo | OptionInfo) -> str:
    known = [arm for arm in get_args(annotation) if arm is not NoneType]
    if get_origin(annotation) is Literal:
        return ", ".join(map(code, known))
    if get_origin(annotation) is list:
        return f"{_type(known[0], info)}, several"
    if known:
        return _type(known[0], info)
    bounds = {
        (True, True): f" ({info.min} to {info.max})",
        (True, False): f" (at least {info.min})",
    }
    return _TYPES[annotation] + bounds.get((info.min is not None, info.max is not None), "")


def _default(value: object) -> str:
    if value is None or value is inspect.Parameter.empty or isinstance(value, bool):
        return ""
    return code(value)


def _block(lines: list[str]) -> str:
    return "\n".join(["```sh", *lines, "```"])
