"""`model-commands` and `model-replies`: a small remote procedure call over two topics."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from schemas.base import Frozen, Inbound
from schemas.envelope import Envelope, refusal
from schemas.errors import UnknownCommand
from schemas.events import ErrorBody, Status
from schemas.identifiers import ElderId, JobId, Version


class ListModels(Inbound):
    """All elders' models, or with `filter_afs_only=false` all that Ollama holds."""

    command: Literal["list"]
    filter_afs_only: bool = True


class GetModel(Inbound):
    """One elder's model with its versions."""

    command: Literal["get"]
    elder_id: ElderId


class DeleteModel(Inbound):
    """Remove an elder's model from Ollama; data sets and answers stay."""

    command: Literal["delete"]
    elder_id: ElderId


class RollbackModel(Inbound):
    """Let an earlier version answer again; without a version, the one before the current."""

    command: Literal["rollback"]
    elder_id: ElderId
    version: Version | None = None


class ExportJsonl(Inbound):
    """Build the data set now and say where it stands."""

    command: Literal["export_jsonl"]
    elder_id: ElderId
    elder_name: str | None = None


class GetJob(Inbound):
    """One job."""

    command: Literal["job"]
    job_id: JobId


class ListJobs(Inbound):
    """The newest jobs, of one elder or of all."""

    command: Literal["jobs"]
    elder_id: ElderId | None = None
    status: Status | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class CancelJob(Inbound):
    """Cancel a job, queued or running."""

    command: Literal["cancel_job"]
    job_id: JobId


class PrioritizeJob(Inbound):
    """Let a queued job begin before all others, after its elder's earlier ones."""

    command: Literal["prioritize_job", "hurry_job"]
    """`hurry_job` is the older name."""
    job_id: JobId


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
    result: dict[str, Any] | None = None
    error: ErrorBody | None = None


def read_command(envelope: Envelope) -> Command:
    """Read a command; raises UnknownCommand, MalformedRecord or InvalidEvent."""
    try:
        return COMMANDS.validate_json(envelope.data)
    except ValidationError as error:
        if any(e["type"] == "union_tag_invalid" for e in error.errors(include_input=False)):
            raise UnknownCommand from error
        raise refusal(error) from error
