"""`modelserver run`, `stack`, `demo`, `doctor`, `topics apply` and `asyncapi`."""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, get_args

import typer

from config.logs import configure_logs
from config.metrics import Metrics
from config.settings import Settings, load_settings
from consumers.app import ROLES, App, RoleName
from consumers.operations.doctor import examine
from consumers.operations.signals import stop_on_signals
from consumers.operations.topics import apply_topics
from schemas.asyncapi import describe_topics
from schemas.errors import ConfigurationError
from terminal.output import notes, print_json, print_table
from terminal.wiring import Json, quiet_settings

# This role needs neither Kafka nor MongoDB, so `App` does not run it.
HOST = "host"

SmallBase = Annotated[
    str, typer.Option(help="The base model: gemma3-270m or smollm2-135m-instruct.")
]

topics = typer.Typer(help="Kafka topics.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(stack)
    app.command()(demo)
    app.command()(doctor)
    app.command()(asyncapi)
    app.add_typer(topics, name="topics")


def run(
    roles: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Which roles: {', '.join(ROLES)}; none: all of these. Only by name: {HOST}."
        ),
    ] = None,
) -> None:
    """Run roles until SIGTERM or Ctrl-C, then finish what is under way and exit.

    Without a name, all roles except `host` run. `host` serves many personas of one base through
    `llama-server` (docs/hosts.md).

    Example: modelserver run

    Example: modelserver run chat models

    Example: modelserver run host
    """
    names = list(dict.fromkeys(roles or ROLES))
    chosen = [_role(name) for name in names if name != HOST]
    settings = load_settings()
    config = settings.training()
    folder = settings.data_dir / config.paths.logs if settings.log.file else None
    configure_logs(settings.log, folder)
    metrics = Metrics()
    with stop_on_signals() as stop, ExitStack() as stack:
        if HOST in names:
            _start_host(settings, metrics, stop, stack)
        if chosen:
            App(settings, metrics).run(chosen, stop)
        stop.wait()


def _start_host(
    settings: Settings, metrics: Metrics, stop: threading.Event, stack: ExitStack
) -> None:
    try:
        from consumers.host import running_host
    except ImportError as error:
        raise ConfigurationError(
            f"the role {HOST} needs {error.name}; install heirloom-modelserver[host]"
        ) from error
    address = stack.enter_context(running_host(settings, metrics, stop))
    notes.print(f"Serving Ollama's API by llama-server at {address}")


def _role(name: str) -> RoleName:
    for role in get_args(RoleName):
        if role == name:
            known: RoleName = role
            return known
    raise typer.BadParameter(f"{name!r}: expected one of {', '.join((*ROLES, HOST))}")


def stack(
    folder: Annotated[Path, typer.Option(help="Where the servers keep their data.")] = Path(
        ".stack"
    ),
    base: SmallBase = "gemma3-270m",
) -> None:
    """Start the embedded servers and print the settings that reach them, as NAME=value lines.

    Example: modelserver stack > stack.env
    """
    from embedded.session import StackSession

    with stop_on_signals() as stop, StackSession(folder, base, notes.print) as session:
        for name, value in session.environment().items():
            print(f"{name}={value}", flush=True)
        notes.print("Ready; Ctrl-C stops the servers.")
        session.wait(stop)


def demo(
    json: Json = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything up at the end, and print the settings.")
    ] = False,
    base: SmallBase = "gemma3-270m",
) -> None:
    """Train and question models of two invented elders, on embedded servers.

    The exit code is 0 only if 95 % of the taught facts come back and no model states another
    elder's facts.

    Example: modelserver demo --json
    """
    from demo.show import run_demo

    raise typer.Exit(run_demo(base=base, json=json, keep=keep))


def doctor(json: Json = False) -> None:
    """Check each dependency and say how to repair what is wrong.

    The exit code is 0 if all is well, 69 if a server cannot be reached, 78 for a wrong setting.

    Example: modelserver doctor --json
    """
    findings = examine(quiet_settings())
    if json:
        print_json({"checks": [finding.model_dump() for finding in findings]})
    else:
        rows = [["ok" if f.ok else "FAILED", f.name, f.found, f.repair] for f in findings]
        print_table("Doctor", ["", "check", "found", "what to do"], rows)
    failed = [finding for finding in findings if not finding.ok]
    if failed:
        raise typer.Exit(max(finding.exit_code for finding in failed))


def asyncapi() -> None:
    """Print the AsyncAPI 3.0 description of all topics, as JSON.

    Example: modelserver asyncapi > asyncapi.json
    """
    print_json(describe_topics())


@topics.command()
def apply(
    partitions: Annotated[
        int | None, typer.Option(min=1, help="For small installations, instead of 12.")
    ] = None,
    json: Json = False,
) -> None:
    """Create the topics that are missing; safe to repeat.

    Example: modelserver topics apply --partitions 3
    """
    applied = apply_topics(quiet_settings(), partitions)
    if json:
        print_json({"topics": [topic.model_dump() for topic in applied]})
    else:
        print_table("Topics", ["topic", "outcome"], [[a.topic, a.outcome] for a in applied])
