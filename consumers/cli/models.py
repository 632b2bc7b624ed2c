"""`modelserver models` and `modelserver export`."""

from typing import Annotated

import typer

from consumers.app import utc_now
from consumers.cli.output import print_fields, print_json, print_table
from consumers.cli.wiring import ElderIdArgument, Json, open_app
from consumers.models import describe_model
from schemas.documents import ElderModel
from schemas.errors import InvalidEvent
from schemas.identifiers import is_elder_id

models = typer.Typer(help="The elders' models.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(models, name="models")
    app.command("export")(export)


@models.command("list")
def list_models(
    json: Json = False,
    all_models: Annotated[bool, typer.Option("--all", help="Bases and strangers too.")] = False,
) -> None:
    """List the models in Ollama.

    Example: modelserver models list --json
    """
    with open_app() as app:
        tags = app.manager.list_models(filter_afs_only=not all_models)
    if json:
        print_json({"models": tags})
    else:
        print_table("Models", ["tag"], [[tag] for tag in tags])


@models.command()
def get(elder_id: ElderIdArgument, json: Json = False) -> None:
    """Show an elder's model with its versions."""
    with open_app() as app:
        _show(app.manager.get_model(checked(elder_id)), json)


@models.command()
def delete(
    elder_id: ElderIdArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove an elder's model from Ollama; answers and data sets stay."""
    if not yes:
        typer.confirm(f"Remove all versions of {elder_id}'s model?", abort=True)
    with open_app() as app:
        deleted = app.manager.delete_model(checked(elder_id))
    if json:
        print_json({"deleted": deleted})
    else:
        print_table("Deleted", ["tag"], [[tag] for tag in deleted])


@models.command()
def rollback(
    elder_id: ElderIdArgument,
    version: Annotated[int | None, typer.Option(help="Which; else the one before.")] = None,
    json: Json = False,
) -> None:
    """Let an earlier version answer again.

    Example: modelserver models rollback LXM19580312F --version 2
    """
    with open_app() as app:
        _show(app.manager.rollback(checked(elder_id), version), json)


def export(
    elder_id: ElderIdArgument,
    name: Annotated[str | None, typer.Option(help="The elder's name.")] = None,
    json: Json = False,
) -> None:
    """Build an elder's JSONL now and say where it stands."""
    with open_app() as app:
        known = app.dataset_registry.find(checked(elder_id)) or {}
        called = name or known.get("elder_name") or app.answers.elder_name(elder_id) or elder_id
        dataset = app.room.build(elder_id, called, app.training.current_model)
    fields = dataset.model_dump(mode="json") | {"at": utc_now().isoformat(timespec="seconds")}
    print_json(fields) if json else print_fields(fields)


def checked(elder_id: str) -> str:
    """Return a valid elder id; raises InvalidEvent."""
    if not is_elder_id(elder_id):
        raise InvalidEvent(
            "ELDER_ID: letters, digits, - and _, at most 64, a letter or digit first"
        )
    return elder_id


def _show(model: ElderModel, json: bool) -> None:
    if json:
        print_json(describe_model(model))
        return
    rows = [
        [
            v.version,
            v.tag,
            "current" if v.version == model.current else ("ready" if v.ready else "not released"),
            v.base_model,
            f"{v.evaluation.right}/{v.evaluation.asked}" if v.evaluation else None,
            v.created_at.isoformat(timespec="seconds"),
        ]
        for v in model.versions
    ]
    columns = ["version", "tag", "state", "base", "knew", "made"]
    print_table(f"{model.elder_name} ({model.id})", columns, rows)
