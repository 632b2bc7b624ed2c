"""`modelserver jobs`: the training jobs of the ledger."""

from typing import Annotated

import typer

from consumers.handlers.models import describe_job
from schemas.events import Status
from terminal.output import print_fields, print_json, print_table
from terminal.wiring import Json, open_app

jobs = typer.Typer(help="Training jobs.", no_args_is_help=True)
JobIdArgument = Annotated[str, typer.Argument(help="The job's id, as in LXM19580312F_1734512345.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(jobs, name="jobs")


@jobs.command("list")
def list_jobs(
    elder: Annotated[str | None, typer.Option(help="Only of this elder.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    json: Json = False,
) -> None:
    """List the newest jobs.

    Example: modelserver jobs list --status failed
    """
    with open_app() as app:
        found = app.ledger.jobs(elder_id=elder, status=status, limit=limit)
    if json:
        print_json({"jobs": [describe_job(job) for job in found]})
        return
    rows = [
        [j.id, j.status, j.stage, f"{j.progress} %", j.attempt, j.error.code if j.error else None]
        for j in found
    ]
    print_table("Jobs", ["job", "status", "stage", "progress", "attempt", "error"], rows)


@jobs.command()
def get(job_id: JobIdArgument, json: Json = False) -> None:
    """Show a job.

    Example: modelserver jobs get LXM19580312F_1734512345
    """
    with open_app() as app:
        fields = describe_job(app.ledger.get(job_id))
    print_json(fields) if json else print_fields(fields)


@jobs.command()
def cancel(job_id: JobIdArgument, json: Json = False) -> None:
    """Cancel a job, queued or running.

    Example: modelserver jobs cancel LXM19580312F_1734512345
    """
    with open_app() as app:
        fields = describe_job(app.ledger.cancel(job_id))
    print_json(fields) if json else print_fields(fields)


@jobs.command("hurry", hidden=True)  # The older name still answers.
@jobs.command()
def prioritize(job_id: JobIdArgument, json: Json = False) -> None:
    """Let a queued job begin before other elders' jobs, after its elder's earlier ones.

    docs/decisions/0012-fairness.md has the rule for the order of jobs.

    Example: modelserver jobs prioritize LXM19580312F_1734512345
    """
    with open_app() as app:
        fields = describe_job(app.ledger.prioritize(job_id))
    print_json(fields) if json else print_fields(fields)
