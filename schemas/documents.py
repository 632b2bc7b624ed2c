"""The MongoDB documents of the collections `jobs` and `models`, and their parts.

The documents of the other collections (`datasets`, `chat_dedup`, `turns`) are small and defined
where they are used. Field names are the stored names; `_id` is the key of a collection.
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

# Unknown fields of a document are ignored: a newer release may have added some.


class Stored(Inbound):
    """A document as read from MongoDB, whose `_id` is called `id` here."""

    # BSON has lists but no tuples, so types are converted where nothing is lost.
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

    Its kind is `train`, an accepted `train-requested`, or `form`, which makes version
    `form_version` servable again from its stored adapter and, if `makes_current`, lets it answer
    in place of `replaces`.

    `fence` grows with every claim; a write succeeds only with the current one. `lease_until` and
    `served_at` (when a worker was last known to work on the job) are on MongoDB's clock. `outbox`
    has the events still to be published, and `latest` the newest progress, which replaces the
    one before it. `attempt` counts claims, except those that resume a job that was `given_back`;
    `failures` counts the attempts whose worker reported a failure.
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
    """The version that answered when `makes_current` was requested. If another one answers by the
    time the form is made, that other one stays current."""
    asked_by: tuple[str, ...] = ()
    """The requests that a `form` job answers, its own among them."""
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
    """The commands that cancelled the job, by source and id; repeating one of them succeeds."""
    error: ErrorBody | None = None
    version: Version | None = None
    queued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outbox: tuple[PendingEvent, ...] = ()
    latest: PendingEvent | None = None

    @property
    def command(self) -> str:
        """The name by which the registry remembers that this job released its version."""
        return f"job/{self.id}"

    @property
    def lost_leases(self) -> int:
        """How many workers were lost over this job, once another has claimed it."""
        return self.attempt - 1 - self.failures


class VersionForm(Stored):
    """A form in which a version was given to its host; the newest one is served.

    `sha256` and `size_bytes` are those of the file that the host got: the adapter, or the merged
    model.
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
    """One trained version of an elder's model, with everything needed to build it again."""

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
        """The form in which the version is served; without a recorded form, `adapter`."""
        return self.forms[-1].form if self.forms else "adapter"


class Deletion(Stored):
    """A `delete` that was carried out: the command's source and id, and the tags it removed."""

    request: str
    tags: tuple[str, ...]


class ElderModel(Stored):
    """An elder's versions, in one document so that one write changes the current version."""

    id: ElderId = Field(alias="_id")
    elder_name: str
    current: Version | None = None
    next_version: Version = 1
    versions: Annotated[tuple[ModelVersion, ...], AfterValidator(_in_order)] = ()
    commands: tuple[str, ...] = ()
    """The last commands that changed `current`, by request: none is carried out twice."""
    passing: tuple[str, ...] = ()
    """The newest temporary names (candidates, handovers) at the host."""
    deletions: tuple[Deletion, ...] = ()
    """The last deletions: a repeated command gets the same answer."""

    def version(self, number: int) -> ModelVersion | None:
        """Find a version by its number."""
        return next((v for v in self.versions if v.version == number), None)

    @property
    def previous(self) -> ModelVersion | None:
        """The newest released version before the one that answers: the target of a rollback."""
        current = self.current or 0
        earlier = (v for v in self.versions if v.ready and v.version < current)
        return max(earlier, key=lambda v: v.version, default=None)

    @property
    def serving(self) -> ModelVersion | None:
        """The version that answers now."""
        return None if self.current is None else self.version(self.current)

    def deleted_by(self, request: str | None) -> tuple[str, ...] | None:
        """Return the tags that a command deleted; None if the command is not known."""
        known = (d.tags for d in self.deletions if d.request == request)
        return next(known, None)
