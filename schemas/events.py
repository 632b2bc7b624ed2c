"""The data of every event, by topic: what comes in is `Inbound`, what goes out is `Frozen`."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import FailFast, Field, StringConstraints, ValidationError

from schemas.base import Frozen, Inbound
from schemas.envelope import Envelope, describe, refusal
from schemas.errors import OverridesOutOfBounds
from schemas.identifiers import ElderId, ElderName, JobId, RequestedJobId, Sha256, Version
from schemas.training import TrainingParameters

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Stage = Literal["preparing", "training", "converting", "evaluating", "publishing"]
Method = Literal["lora", "retrieval"]
Role = Literal["user", "assistant"]
Percent = Annotated[int, Field(ge=0, le=100)]
# Long enough for any question, short enough for any base model's window.
ChatText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]

TERMINAL_STATUSES: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})


class ErrorBody(Frozen):
    """An error as events and replies carry it."""

    code: str
    """The stable code, as in docs/reference/errors.md."""
    message: str
    """What happened and what to do; never an elder's words."""


class AnswersUpdated(Inbound):
    """`answers-updated`: read this elder's answers again."""

    elder_id: ElderId
    """Whose answers changed."""
    elder_name: ElderName | None = None
    """The elder's name; none: the one known already."""
    # Stop at the first error: half a million errors in one record would take half a gigabyte.
    answer_ids: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=200)], ...], FailFast()
    ] = ()
    """Which answers changed. Not used: all of the elder's answers are read again."""


class TrainRequested(Inbound):
    """`train-requested`: train a model for this elder."""

    elder_id: ElderId
    """Whose model is to be trained."""
    elder_name: ElderName
    """The elder's name, as the system prompt gives it."""
    force_retrain: bool = False
    """Train even if nothing changed; otherwise such a job succeeds at once with `reused: true`."""
    job_id: RequestedJobId | None = None
    """The job's id; none: `<elder_id>_<unix seconds>`."""
    base_model: Annotated[str, StringConstraints(max_length=100)] | None = None
    """A key of `base_models` in the training config; none: the current model."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Training parameters for this job alone, within the bounds below."""


class DatasetReady(Frozen):
    """`dataset-ready`: a data set is on the disk, complete."""

    elder_id: ElderId
    """Whose answers it was made from."""
    dataset_sha256: Sha256
    """The hash of the JSONL file, which names its content."""
    examples: int
    """How many examples it has."""
    skipped: dict[str, int]
    """How many answers were left out or shortened, by reason."""
    path: str
    """Where it is on the machine that made it."""


class TrainProgress(Frozen):
    """`train-progress`: how far a job has come."""

    job_id: JobId
    """The job."""
    elder_id: ElderId
    """Whose model it makes."""
    status: Status
    """The job's state. `succeeded`, `failed` and `cancelled` are terminal, and a job has one
    terminal event."""
    stage: Stage | None = None
    """What a running job is doing."""
    progress: Percent = 0
    """How much of the job is done, in percent."""
    current_epoch: int = 0
    """The epoch under way, from 1."""
    total_epochs: int = 0
    """How many epochs the training has."""
    step: int = 0
    """The steps done."""
    total_steps: int = 0
    """How many steps the training has."""
    loss: float | None = None
    """The loss of the last step."""
    eta_seconds: int | None = None
    """The estimated time left, in seconds."""
    eta: str | None = None
    """The same in words, in the language of `MODELSERVER_LANGUAGE`: `5分钟`."""
    sequence: int
    """Never decreases within a job: of two events, the one with the lower number is older."""
    attempt: int
    """Which attempt at the job this is; 0 before the first."""
    error: ErrorBody | None = None
    """Why the job failed."""


class Evaluation(Frozen):
    """How much of what it was taught a version knew, asked through its host before release."""

    asked: int
    """How many questions it was asked."""
    right: int
    """How many it answered as taught."""
    recall: Annotated[float, Field(ge=0, le=1)]
    """The share of right answers."""
    threshold: Annotated[float, Field(ge=0, le=1)]
    """The share that was needed."""


class ModelReady(Frozen):
    """`model-ready`: this version answers for the elder from now on."""

    job_id: JobId
    """The job that made it."""
    elder_id: ElderId
    """Whose model it is."""
    model: str
    """The model's name at its host: `afs_elder_<elder_id>`."""
    version: Version
    """The version that answers now."""
    tag: str
    """The name under which its host serves this version."""
    base_model: str
    """The key of the base model."""
    method: Method
    """How the persona was made."""
    dataset_sha256: Sha256
    """The data set that it was trained on, as in `dataset-ready`."""
    adapter_sha256: Sha256 | None
    """The hash of the adapter's weights."""
    evaluation: Evaluation | None
    """What it knew before its release."""
    reused: bool
    """Whether nothing had changed: then no version was trained, and the earlier one goes on."""
    previous_version: Version | None
    """The version that answered before."""


class ChatTurn(Inbound):
    """One earlier turn of a conversation."""

    role: Role
    """Who said it."""
    content: Annotated[str, StringConstraints(min_length=1, max_length=8000)]
    """What was said."""


class ChatOptions(Inbound):
    """What a request may ask of the model, within bounds."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """The sampling temperature; none: `MODELSERVER_CHAT__TEMPERATURE`."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the most likely tokens of this total probability."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """The seed of the sampling."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The longest reply, in tokens; none: `MODELSERVER_CHAT__MAX_TOKENS`."""
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] | None = None
    """How long the reply may take, in milliseconds; none: `MODELSERVER_CHAT__DEADLINE_S`."""


class ChatRequest(Inbound):
    """`chat-requests`: a family member's question, with what was said before."""

    elder_id: ElderId
    """Who is asked."""
    message: ChatText
    """The question."""
    conversation_history: Annotated[tuple[ChatTurn, ...], Field(max_length=200), FailFast()] = ()
    """What was said before, the oldest turn first."""
    stream: bool = False
    """Send the reply in parts; the headers `seq` and `final` give their order."""
    options: ChatOptions = ChatOptions()
    """What this request asks of the model."""


class Source(Frozen):
    """An interview answer that a reply rests on."""

    answer_id: str
    """The answer's id, as upstream stored it."""
    question: str
    """The interview question."""
    score: float
    """How well the answer matches the question; larger is better."""


class Usage(Frozen):
    """Tokens read and written."""

    prompt_tokens: int
    """Tokens of the prompt."""
    completion_tokens: int
    """Tokens of the reply."""


class ChatReply(Frozen):
    """`chat-replies`: what the model said, or why it said nothing."""

    elder_id: str
    """Who was asked."""
    reply: str
    """What the model said; empty with an error."""
    model: str | None
    """The tag of the version that answered."""
    sources: tuple[Source, ...] = ()
    """The elder's own answers that the reply rests on."""
    ai_generated: Literal[True] = True
    """Always true: a model wrote the reply, not the elder."""
    usage: Usage | None = None
    """How many tokens the reply took."""
    duration_ms: int
    """From the request's receipt to the reply, in milliseconds."""
    error: ErrorBody | None = None
    """Why there is no reply."""


InboundEvent = TypeVar("InboundEvent", bound=Inbound)


def read_event(envelope: Envelope, shape: type[InboundEvent]) -> InboundEvent:
    """Read an envelope's data as `shape`; raises MalformedRecord or InvalidEvent."""
    try:
        return shape.model_validate_json(envelope.data)
    except ValidationError as error:
        raise refusal(error) from error


def apply_overrides(base: TrainingParameters, overrides: dict[str, Any]) -> TrainingParameters:
    """Return the configured parameters with a request's overrides, within the same bounds.

    Raises OverridesOutOfBounds for an unknown name, a wrong type or a value out of range.
    """
    if not overrides:  # The usual case, in which validation would double the cost of a request.
        return base
    try:
        return base.overlaid(overrides)
    except ValidationError as error:
        raise OverridesOutOfBounds(f"overrides: {describe(error)}") from error
