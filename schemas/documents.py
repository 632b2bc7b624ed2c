"""The MongoDB documents that ModelServer owns: `jobs`, `models`, and the parts of them.

The others are small: `datasets`, `chat_dedup` and `turns` are known to their own modules alone.

Field names are the stored names; `_id` is what each collection is looked up by.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from schemas.base import Inbound
from schemas.events import ErrorBody, Evaluation, Method, Stage, Status
from schemas.hosting import Form
from schemas.identifiers import ElderId, JobId, Sha256, Version
from schemas.training import Quantization

JobKind = Literal["train", "form"]

# Store documents are read leniently as to unknown fields: a newer release may have added some.


class Stored(Inbound):
    """A document as read from MongoDB, whose `_id` is called `id` here."""

    # BSON knows lists, not tuples, so types are converted here as far as nothing is lost.
    model_config = ConfigDict(populate_by_name=True, strict=False)


class PendingEvent(Stored):
    """An event in a job's outbox, waiting for the relay."""

    sequence: int
    topic: str
    event_id: str
    time: datetime
    data: dict[str, Any]


class Job(Stored):
    """One piece of work of the training role, from queue to terminal state.

    `kind` says which: `train`, an accepted `train-requested`; or `form`, which makes version
    `form_version` servable again from its stored adapter and, if `makes_current`, lets it answer
    in place of `replaces`.

    `fence` grows with every claim; whoever writes must hold the current one. `lease_until` is
    on MongoDB's clock, and so is `served_at`: when a worker was last known to work on it.
    `outbox` holds events still to be published, `latest` the newest progress, of which only the
    last matters. `attempt` counts claims, but for those that go on with what was `given_back`;
    `failures` those of them that ended with a failure their worker reported.
    """

    id: JobId = Field(alias="_id")
    request_source: str
    request_id: str
    elder_id: ElderId
    elder_name: str
    kind: JobKind = "train"
    form_version: Version | None = None
    makes_current: bool = False
    replaces: Version | None = None
    """What answered when `makes_current` was asked for; where another does by then, that wins."""
    asked_by: tuple[str, ...] = ()
    """The requests that a job of the kind `form` answers, its own among them."""
    force_retrain: bool
    base_model: str | None
    overrides: dict[str, Any]
    traceparent: str | None = None
    status: Status
    stage: Stage | None = None
    progress: int = 0
    step: int = 0
    total_steps: int = 0
    current_epoch: int = 0
    total_epochs: int = 0
    loss: float | None = None
    eta_seconds: int | None = None
    sequence: int
    attempt: int
    given_back: bool = False
    failures: int = 0
    fence: int
    owner: str | None = None
    lease_until: datetime | None = None
    not_before: datetime | None = None
    served_at: datetime | None = None
    urgent: bool = False
    cancel_requested: bool = False
    cancel_requests: tuple[str, ...] = ()
    """The commands that cancelled it, by source and id: none is refused when it comes again."""
    error: ErrorBody | None = None
    version: Version | None = None
    queued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outbox: tuple[PendingEvent, ...] = ()
    latest: PendingEvent | None = None

    @property
    def command(self) -> str:
        """The name under which the registry remembers that this job let its version answer."""
        return f"job/{self.id}"

    @property
    def lost_leases(self) -> int:
        """How many workers were lost over this job, once another has claimed it."""
        return self.attempt - 1 - self.failures


class VersionForm(Stored):
    """A form in which a host was given a version; the newest one is what it serves.

    `sha256` and `size_bytes` are those of the file that the host was given: the adapter, or the
    merged model.
    """

    form: Form
    sha256: Sha256 | None = None
    size_bytes: int = 0
    evaluation: Evaluation | None = None
    quantization: Quantization | None = None
    made_at: datetime


def _in_order(versions: "tuple[ModelVersion, ...]") -> "tuple[ModelVersion, ...]":
    return tuple(sorted(versions, key=lambda v: v.version))


class ModelVersion(Stored):
    """One trained version of an elder's model and all that it takes to build it again."""

    version: Version
    job_id: JobId
    fence: int
    ready: bool = False
    tag: str
    base_model: str
    method: Method
    recipe_sha256: Sha256
    dataset_sha256: Sha256
    adapter_sha256: Sha256 | None = None
    gguf_sha256: Sha256 | None = None
    forms: tuple[VersionForm, ...] = ()
    evaluation: Evaluation | None = None
    created_at: datetime

    @property
    def form(self) -> Form:
        """How it is served: before forms were recorded, as an adapter."""
        return self.forms[-1].form if self.forms else "adapter"


class Deletion(Stored):
    """A `delete` that was carried out: which command, by source and id, and what it removed."""

    request: str
    tags: tuple[str, ...]


class ElderModel(Stored):
    """An elder's versions in one document, so that the current one changes in one write."""

    id: ElderId = Field(alias="_id")
    elder_name: str
    current: Version | None = None
    next_version: Version = 1
    versions: Annotated[tuple[ModelVersion, ...], AfterValidator(_in_order)] = ()
    commands: tuple[str, ...] = ()
    """The last commands that changed `current`, by their names as requests: none is done twice."""
    passing: tuple[str, ...] = ()
    """The names that are in Ollama for a moment (candidates, handovers): the newest ones."""
    deletions: tuple[Deletion, ...] = ()
    """The last deletions: a command that comes again is answered as it was."""

    def version(self, number: int) -> ModelVersion | None:
        """Find a version by its number."""
        return next((v for v in self.versions if v.version == number), None)

    @property
    def previous(self) -> ModelVersion | None:
        """The newest released version before the one that answers: where a rollback leads."""
        current = self.current or 0
        earlier = (v for v in self.versions if v.ready and v.version < current)
        return max(earlier, key=lambda v: v.version, default=None)

    @property
    def serving(self) -> ModelVersion | None:
        """The version that answers now."""
        return None if self.current is None else self.version(self.current)

    def deleted_by(self, request: str | None) -> tuple[str, ...] | None:
        """What a command deleted; None where it is not known."""
        known = (d.tags for d in self.deletions if d.request == request)
        return next(known, None)
