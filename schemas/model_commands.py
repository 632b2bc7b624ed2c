"""`model-commands` and `model-replies`: a small remote procedure call over two topics."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from schemas.base import Frozen, Inbound
from schemas.envelope import Envelope, refusal
from schemas.errors import UnknownCommand
from schemas.events import ErrorBody, Status
from schemas.identifiers import ElderId, JobId, Version


class ListModels(Inbound):
    """List the models."""

    command: Literal["list"]
    """Which command."""
    filter_afs_only: bool = True
    """Only the elders' models; `false` lists all that the host has."""


class GetModel(Inbound):
    """Show an elder's model with its versions."""

    command: Literal["get"]
    """Which command."""
    elder_id: ElderId
    """Whose model."""


class DeleteModel(Inbound):
    """Remove all released versions of an elder's model; data sets and answers stay.

    A training that is queued or under way goes on, and its version answers afterwards: send
    `cancel_job` first if that is not wanted. A job whose version is already released succeeds
    nevertheless. A command that comes again with the same `ce_source` and `ce_id` is answered as
    done, and does nothing twice.
    """

    command: Literal["delete"]
    """Which command."""
    elder_id: ElderId
    """Whose model."""


class RollbackModel(Inbound):
    """Let an earlier version answer again.

    A command that comes again with the same `ce_source` and `ce_id` is answered as done, and does
    nothing twice. A version that its host no longer has is made again first: the result names the
    job that does so.
    """

    command: Literal["rollback"]
    """Which command."""
    elder_id: ElderId
    """Whose model."""
    version: Version | None = None
    """Which version; none: the one before the current."""


class ExportJsonl(Inbound):
    """Build the data set now and say where it is."""

    command: Literal["export_jsonl"]
    """Which command."""
    elder_id: ElderId
    """Whose answers."""
    elder_name: str | None = None
    """The elder's name; none: the one known already."""


class GetJob(Inbound):
    """Show a job."""

    command: Literal["job"]
    """Which command."""
    job_id: JobId
    """Which job."""


class ListJobs(Inbound):
    """List the newest jobs."""

    command: Literal["jobs"]
    """Which command."""
    elder_id: ElderId | None = None
    """Of this elder; none: of all."""
    status: Status | None = None
    """In this state; none: in any."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """At most this many."""


class CancelJob(Inbound):
    """Cancel a job, queued or running.

    A command that comes again with the same `ce_source` and `ce_id` is answered as done, and does
    nothing twice.
    """

    command: Literal["cancel_job"]
    """Which command."""
    job_id: JobId
    """Which job."""


class PrioritizeJob(Inbound):
    """Let a queued job begin before other elders' jobs, after its elder's earlier ones."""

    command: Literal["prioritize_job", "hurry_job"]
    """Which command; `hurry_job` is the older name."""
    job_id: JobId
    """Which job."""


Command = Annotated[
    ListModels
    | GetModel
    | DeleteModel
    | RollbackModel
    | ExportJsonl
    | GetJob
    | ListJobs
    | CancelJob
    | PrioritizeJob,
    Field(discriminator="command"),
]
COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)


class ModelReply(Frozen):
    """`model-replies`: a result or an error, never both."""

    command: str
    """The command that this is the reply to."""
    result: dict[str, Any] | None = None
    """What the command found or did."""
    error: ErrorBody | None = None
    """Why it did nothing."""


def read_command(envelope: Envelope) -> Command:
    """Read a command; raises UnknownCommand, MalformedRecord or InvalidEvent."""
    try:
        return COMMANDS.validate_json(envelope.data)
    except ValidationError as error:
        if any(e["type"] == "union_tag_invalid" for e in error.errors(include_input=False)):
            raise UnknownCommand from error
        raise refusal(error) from error
