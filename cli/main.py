"""`modelserver`: all commands, and how an error becomes an exit code."""

import sys

import typer

from cli import datasets, dead_letters, jobs, models, requests, servers
from schemas.errors import FatalError, ModelServerError, RetryError
from schemas.exit_codes import ExitCode
from terminal.output import notes

app = typer.Typer(
    name="modelserver",
    help="传家之宝 ModelServer: from an elder's answers to a model that speaks as she did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
servers.register(app)
requests.register(app)
models.register(app)
datasets.register(app)
jobs.register(app)
dead_letters.register(app)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        app()
    except ModelServerError as error:
        notes.print(f"[red]{error.code}[/]: ", end="")
        notes.print(error.message, markup=False)
        sys.exit(exit_code(error))
    except TimeoutError as error:
        notes.print(str(error), markup=False)
        sys.exit(ExitCode.UNAVAILABLE)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def exit_code(error: ModelServerError) -> ExitCode:
    """Return the exit code of an error, by the reaction that it asks for."""
    if isinstance(error, FatalError):
        return ExitCode.CONFIGURATION
    return ExitCode.UNAVAILABLE if isinstance(error, RetryError) else ExitCode.FAILED


if __name__ == "__main__":
    main()
