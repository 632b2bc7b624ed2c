"""`modelserver models`: the elders' models and their versions."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cli.elder_ids import require_elder_id
from consumers.handlers.models import describe_model, describe_rollback
from pipeline.versions.retention import Removal
from schemas.documents import ElderModel
from terminal.output import notes, print_json, print_table
from terminal.wiring import ElderIdArgument, Json, open_app

models = typer.Typer(help="The elders' models.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(models, name="models")


@models.command("list")
def list_models(
    json: Json = False,
    all_models: Annotated[
        bool, typer.Option("--all", help="All that the host has, not only elders' models.")
    ] = False,
) -> None:
    """List the models that the host has.

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
    """Show an elder's model with its versions.

    Example: modelserver models get LXM19580312F
    """
    with open_app() as app:
        _show(app.manager.get_model(require_elder_id(elder_id)), json)


@models.command()
def delete(
    elder_id: ElderIdArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove an elder's model from its host; the answers stay, so that it can be trained again.

    Example: modelserver models delete LXM19580312F
    """
    if not yes:
        typer.confirm(f"Remove all versions of {elder_id}'s model?", abort=True)
    with open_app() as app:
        deleted = app.manager.delete_model(require_elder_id(elder_id))
    if json:
        print_json({"deleted": deleted})
    else:
        print_table("Deleted", ["tag"], [[tag] for tag in deleted])


@models.command()
def rollback(
    elder_id: ElderIdArgument,
    version: Annotated[
        int | None, typer.Option(help="Which version; none: the one before the current.")
    ] = None,
    json: Json = False,
) -> None:
    """Let an earlier version answer again.

    A version that its host no longer has is made again first: the command names the job that
    does so.

    Example: modelserver models rollback LXM19580312F --version 2
    """
    with open_app() as app:
        done = app.manager.rollback(require_elder_id(elder_id), version)
    if json:
        print_json(describe_rollback(done))
        return
    _show(done.model, json)
    if done.job_id is not None:
        notes.print(
            f"Its form is made first, by job {done.job_id}; until then the present version "
            f"answers. See: modelserver jobs get {done.job_id}"
        )


@models.command()
def prune(
    elder_id: Annotated[
        str | None, typer.Argument(help="One elder's id; none: all elders.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove old versions, checkpoints and data sets that nobody needs.

    The current version, the versions to roll back to and the files of unfinished jobs always stay
    (docs/decisions/0011-retention.md).

    Example: modelserver models prune --dry-run
    """
    if not (yes or dry_run):
        typer.confirm("Remove what nobody needs any more?", abort=True, err=True)
    removals = []
    with open_app() as app:
        carry_out = app.retention.plan if dry_run else app.retention.prune
        for elder in [require_elder_id(elder_id)] if elder_id else app.retention.elders():
            removal = carry_out(elder)
            if removal is not None and not removal.is_empty:
                removals.append(removal)
    if json:
        print_json({"dry_run": dry_run, "removed": [describe_removal(r) for r in removals]})
    else:
        _show_removals("Would be removed" if dry_run else "Removed", removals)


def _show_removals(title: str, removals: Sequence[Removal]) -> None:
    rows = [
        [
            r.elder_id,
            " ".join(map(str, r.versions)),
            " ".join(map(str, r.forms)),
            len(r.tags),
            len(r.items),
            r.size_bytes,
        ]
        for r in removals
    ]
    columns = ["elder", "versions", "merged forms of", "tags", "files and folders", "bytes"]
    print_table(title, columns, rows)


def describe_removal(removal: Removal) -> dict[str, Any]:
    """Describe what was removed, or would be, as JSON shows it."""
    return {
        "elder_id": removal.elder_id,
        "versions": list(removal.versions),
        "forms": list(removal.forms),
        "tags": list(removal.tags),
        "files": [item.name for item in removal.items],
        "bytes": removal.size_bytes,
    }


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
            v.form,
            f"{v.evaluation.right}/{v.evaluation.asked}" if v.evaluation else None,
            v.created_at.isoformat(timespec="seconds"),
        ]
        for v in model.versions
    ]
    columns = ["version", "tag", "state", "base", "form", "knew", "made"]
    print_table(f"{model.elder_name} ({model.id})", columns, rows)
