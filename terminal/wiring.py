"""Opens what a command needs: settings, the application's parts, a sender of requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from config.logs import configure_logs
from config.settings import LogSettings, Settings, load_settings
from consumers.app import App
from consumers.client import Sender

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
ElderIdArgument = Annotated[str, typer.Argument(help="The elder's id, as in LXM19580312F.")]


def quiet_settings() -> Settings:
    """Load the settings for a short command; only warnings are logged, to the console."""
    settings = load_settings()
    configure_logs(LogSettings(level="warning", format="console", file=False))
    return settings


@contextmanager
def open_app() -> Iterator[App]:
    """Yield the application's parts, without running roles; close its connections at the end."""
    app = App(quiet_settings())
    try:
        yield app
    finally:
        app.close()


@contextmanager
def open_sender(app: App) -> Iterator[Sender]:
    """Yield a sender; everything that it sends is confirmed before it is closed."""
    with app.publisher as publisher:
        yield Sender(publisher, app.events)
