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
    message: str


class AnswersUpdated(Inbound):
    """`answers-updated`: read this elder's answers again."""

    elder_id: ElderId
    elder_name: ElderName | None = None
    # One fault is enough: half a million of them in one record would take half a gigabyte.
    answer_ids: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=200)], ...], FailFast()
    ] = ()


class TrainRequested(Inbound):
    """`train-requested`: train a model for this elder."""

    elder_id: ElderId
    elder_name: ElderName
    force_retrain: bool = False
    job_id: RequestedJobId | None = None
    base_model: Annotated[str, StringConstraints(max_length=100)] | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)


class DatasetReady(Frozen):
    """`dataset-ready`: a data set stands on the disk, whole."""

    elder_id: ElderId
    dataset_sha256: Sha256
    examples: int
    skipped: dict[str, int]
    path: str


class TrainProgress(Frozen):
    """`train-progress`: how far a job is; `sequence` only grows, `progress` is in percent."""

    job_id: JobId
    elder_id: ElderId
    status: Status
    stage: Stage | None = None
    progress: Percent = 0
    current_epoch: int = 0
    total_epochs: int = 0
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    eta_seconds: int | None = None
    eta: str | None = None
    sequence: int
    attempt: int
    error: ErrorBody | None = None


class Evaluation(Frozen):
    """What a version knew of what it was taught, asked through Ollama before release."""

    asked: int
    right: int
    recall: Annotated[float, Field(ge=0, le=1)]
    threshold: Annotated[float, Field(ge=0, le=1)]


class ModelReady(Frozen):
    """`model-ready`: this version answers for the elder from now on."""

    job_id: JobId
    elder_id: ElderId
    model: str
    version: Version
    tag: str
    base_model: str
    method: Method
    dataset_sha256: Sha256
    adapter_sha256: Sha256 | None
    evaluation: Evaluation | None
    reused: bool
    previous_version: Version | None


class ChatTurn(Inbound):
    """One earlier turn of a conversation."""

    role: Role
    content: Annotated[str, StringConstraints(min_length=1, max_length=8000)]


class ChatOptions(Inbound):
    """What a request may ask of the model, within bounds; times in milliseconds."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] | None = None


class ChatRequest(Inbound):
    """`chat-requests`: a family member's question, with what was said before."""

    elder_id: ElderId
    message: ChatText
    conversation_history: Annotated[tuple[ChatTurn, ...], Field(max_length=200), FailFast()] = ()
    stream: bool = False
    options: ChatOptions = ChatOptions()


class Source(Frozen):
    """An interview answer that a reply rests on; `score` grows with likeness."""

    answer_id: str
    question: str
    score: float


class Usage(Frozen):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int


class ChatReply(Frozen):
    """`chat-replies`: what the model said. `ai_generated` is always true: this is no recording."""

    elder_id: str
    reply: str
    model: str | None
    sources: tuple[Source, ...] = ()
    ai_generated: Literal[True] = True
    usage: Usage | None = None
    duration_ms: int
    error: ErrorBody | None = None


InboundEvent = TypeVar("InboundEvent", bound=Inbound)


def read_event(envelope: Envelope, shape: type[InboundEvent]) -> InboundEvent:
    """Read an envelope's data as `shape`; raises MalformedRecord or InvalidEvent."""
    try:
        return shape.model_validate_json(envelope.data)
    except ValidationError as error:
        raise refusal(error) from error


def apply_overrides(base: TrainingParameters, overrides: dict[str, Any]) -> TrainingParameters:
    """Lay a request's overrides over the configured parameters, within the same bounds.

    Raises OverridesOutOfBounds for an unknown name, a wrong type or a value out of range.
    """
    if not overrides:  # Nearly always; and it is half the cost of reading a request.
        return base
    try:
        return base.overlaid(overrides)
    except ValidationError as error:
        raise OverridesOutOfBounds(f"overrides: {describe(error)}") from error
