"""`modelserver export`: an elder's data set, built now."""

from typing import Annotated

import typer

from cli.elder_ids import require_elder_id
from consumers.app import utc_now
from terminal.output import print_fields, print_json
from terminal.wiring import ElderIdArgument, Json, open_app


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    elder_id: ElderIdArgument,
    name: Annotated[str | None, typer.Option(help="The elder's name; none: as known.")] = None,
    json: Json = False,
) -> None:
    """Build an elder's JSONL now and say where it is.

    Example: modelserver export LXM19580312F --name 李秀梅
    """
    with open_app() as app:
        known = app.dataset_registry.find(require_elder_id(elder_id)) or {}
        called = name or known.get("elder_name") or app.answers.elder_name(elder_id) or elder_id
        dataset = app.datasets.build(elder_id, called, app.training.current_model)
    fields = dataset.model_dump(mode="json") | {"at": utc_now().isoformat(timespec="seconds")}
    print_json(fields) if json else print_fields(fields)
