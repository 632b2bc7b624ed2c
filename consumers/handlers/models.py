"""`model-commands`: reads and changes models, versions, jobs and data sets; answers each."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from consumers.handlers.error_replies import find_error_target
from consumers.kafka.dispatch import Received, Rejection
from pipeline.dataset.builder import DatasetBuilder
from pipeline.ledger.ledger import Ledger
from pipeline.versions.manager import ModelManager, Rollback
from pipeline.versions.registry import DatasetRegistry
from producers.publisher import Publication
from producers.replies import NO_SUCH_PLACE, Replies, Reply, error_header
from schemas.documents import ElderModel, Job
from schemas.errors import NoSuchTopic, RejectError, ReplyTopicRefused
from schemas.events import ErrorBody
from schemas.model_commands import (
    CancelJob,
    Command,
    DeleteModel,
    ExportJsonl,
    GetJob,
    GetModel,
    ListJobs,
    ListModels,
    ModelReply,
    PrioritizeJob,
    RollbackModel,
    read_command,
)
from schemas.record import Record
from schemas.rpc import REPLY_TOPIC, reply_id, request_key
from schemas.topics import MODEL_REPLIES

_INTERNAL = {
    "outbox",
    "latest",
    "request_source",
    "request_id",
    "traceparent",
    "owner",
    "served_at",
    "given_back",
    "cancel_requests",
    "asked_by",
}


class ModelsHandler:
    """Runs commands and answers each one."""

    def __init__(
        self,
        manager: ModelManager,
        ledger: Ledger,
        datasets: DatasetBuilder,
        dataset_registry: DatasetRegistry,
        replies: Replies,
        confirm: Callable[[Iterable[Publication]], None],
        base: str,
        blamed: Callable[[str], AbstractContextManager[None]] = lambda elder_id: nullcontext(),
    ) -> None:
        """`blamed` raises HostFailed if the host fails only at one elder's models.

        HostFailed is answered; other errors of the host are retried.
        """
        self._manager = manager
        self._ledger = ledger
        self._datasets = datasets
        self._dataset_registry = dataset_registry
        self._replies = replies
        self._confirm = confirm
        self._base = base
        self._blame = blamed

    def _blamed(self, command: Command) -> AbstractContextManager[None]:
        elder_id = getattr(command, "elder_id", None)
        return nullcontext() if elder_id is None else self._blame(elder_id)

    def handle(self, received: Sequence[Received]) -> list[Rejection]:
        """Run each command and publish its reply."""
        refused: list[Rejection] = []
        for one in received:
            try:
                command = read_command(one.envelope)
                target = self._replies.target(one.record, MODEL_REPLIES.name)
                key = request_key(one.envelope, one.record)
                with self._blamed(command):
                    result = self.run(command, key)
            except RejectError as error:
                refused.append((one, error))
                continue
            reply = ModelReply(command=command.command, result=result)
            event_id = reply_id(one.envelope.id, key)
            try:
                self._confirm([self._replies.publication(target, _reply(reply, event_id))])
            except NoSuchTopic:
                if one.record.header(REPLY_TOPIC) is None:
                    raise  # It is our own reply topic: the dispatcher retries until it exists.
                refused.append((one, ReplyTopicRefused(NO_SUCH_PLACE)))
        return refused

    def refuse(self, record: Record, error: RejectError) -> Publication | None:
        """Build the error reply, or return None if `find_error_target` finds no place for it."""
        target = find_error_target(
            self._replies, record, error, MODEL_REPLIES.name, answers_unasked=True
        )
        if target is None:
            return None
        body = ErrorBody(code=error.code, message=error.message)
        return self._replies.publication(
            target, _reply(ModelReply(command="", error=body), f"{record.position}/reply")
        )

    def run(self, command: Command, request: str) -> dict[str, Any]:
        """Run a command and return its result; raises what the ledger and the models raise.

        Idempotent: `request` identifies the command, and a repeat changes nothing more.
        """
        match command:
            case ListModels():
                return {"models": self._manager.list_models(command.filter_afs_only)}
            case GetModel():
                return describe_model(self._manager.get_model(command.elder_id))
            case DeleteModel():
                return {"deleted": self._manager.delete_model(command.elder_id, request)}
            case RollbackModel():
                done = self._manager.rollback(command.elder_id, command.version, request)
                return describe_rollback(done)
            case ExportJsonl():
                return self._export(command)
            case GetJob():
                return describe_job(self._ledger.get(command.job_id))
            case ListJobs():
                jobs = self._ledger.jobs(
                    elder_id=command.elder_id, status=command.status, limit=command.limit
                )
                return {"jobs": [describe_job(job) for job in jobs]}
            case CancelJob():
                return describe_job(self._ledger.cancel(command.job_id, request))
            case PrioritizeJob():
                return describe_job(self._ledger.prioritize(command.job_id))

    def _export(self, command: ExportJsonl) -> dict[str, Any]:
        known = self._dataset_registry.find(command.elder_id) or {}
        name = command.elder_name or known.get("elder_name") or command.elder_id
        dataset = self._datasets.build(command.elder_id, name, self._base)
        return dataset.model_dump(mode="json", exclude={"system_prompt"})


def describe_model(model: ElderModel) -> dict[str, Any]:
    """Return a model as replies and the command line show it."""
    internal = {"id", "next_version", "commands", "deletions", "passing"}
    document = model.model_dump(mode="json", exclude=internal)
    return {"elder_id": model.id, **document}


def describe_rollback(done: Rollback) -> dict[str, Any]:
    """Return a rollback's outcome; `job_id` is the job that must first make the version's form."""
    return describe_model(done.model) | {"job_id": done.job_id}


def describe_job(job: Job) -> dict[str, Any]:
    """Return a job as replies and the command line show it."""
    return {"job_id": job.id, **job.model_dump(mode="json", exclude=_INTERNAL | {"id"})}


def _reply(reply: ModelReply, event_id: str) -> Reply:
    error = reply.error
    return Reply(
        topic=MODEL_REPLIES.name,
        event_id=event_id,
        data=reply.model_dump(mode="json"),
        error=error_header(error.code, error.message) if error else None,
    )
