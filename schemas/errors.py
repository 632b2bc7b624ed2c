"""The error tree, drawn by reaction.

    ModelServerError
    ├── RetryError      a dependency is down: wait, back off, keep polling; never a dead letter
    │   ├── KafkaUnavailable
    │   │   ├── NoSuchTopic
    │   │   │   └── TopicRefused
    │   │   └── KafkaRefused
    │   ├── StoreUnavailable
    │   │   └── StoreRefused
    │   ├── OllamaUnavailable
    │   │   └── OllamaFailed
    │   └── DiskUnavailable
    │       └── DiskFull
    ├── RejectError     the record or the work is at fault: dead letter or error reply, then go on
    │   ├── MalformedRecord, InvalidEvent, MessageTooLarge
    │   ├── UnknownElder, ElderIdClash, NoAnswers, UnknownBaseModel
    │   ├── OverridesOutOfBounds
    │   ├── UnknownCommand, UnknownJob, UnknownVersion, UnknownLetter, JobAlreadyEnded
    │   ├── ModelNotReady, OllamaRefused, DeadlineExceeded, ReplyTopicRefused
    │   ├── HostFailed, FormUnsupported, QuantizationTooLossy
    │   ├── TrainingFailed, TrainingOutOfMemory, EvaluationFailed, ArtefactCorrupt
    │   ├── AdapterUnsupported, AdapterMismatch, QuantizerFailed, FolderNotOurs
    │   ├── ExampleTooLong, ChatFormatMismatch
    │   └── InternalError
    ├── FatalError      the configuration is wrong: say so and exit 78
    │   └── ConfigurationError
    └── Interrupted     not a failure: someone else decided
        ├── LeaseLost
        ├── JobCancelled
        ├── TrainingKilled
        └── Stopped

Each class has a stable `code`, which events and replies carry, and a docstring that doubles as
the default sentence: what happened and what to do next. A message never quotes an elder's words.
"""

from typing import ClassVar


class ModelServerError(Exception):
    """Something went wrong in ModelServer."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None) -> None:
        self.message = message or " ".join((self.__doc__ or self.code).split())
        super().__init__(self.message)


class RetryError(ModelServerError):
    """A dependency is down; the work waits for it."""

    code = "dependency_unavailable"


class KafkaUnavailable(RetryError):
    """Kafka did not confirm in time; check KAFKA_BOOTSTRAP_SERVERS and the brokers."""

    code = "kafka_unavailable"


class NoSuchTopic(KafkaUnavailable):
    """The topic or partition does not exist; run `modelserver topics apply`."""

    code = "no_such_topic"


class TopicRefused(NoSuchTopic):
    """The topic takes no event of ours; check its settings, and our rights in docs/security.md.

    To a user without rights Kafka does not tell a topic that is not there from one that is.
    """

    code = "topic_refused"


class KafkaRefused(KafkaUnavailable):
    """Kafka refuses this user; check MODELSERVER_KAFKA__SECURITY and the user's rights."""

    code = "kafka_refused"


class StoreUnavailable(RetryError):
    """MongoDB cannot be reached; check MONGODB_URI and the server."""

    code = "store_unavailable"


class StoreRefused(StoreUnavailable):
    """MongoDB refuses this user; check user and password in MONGODB_URI, and the user's roles."""

    code = "store_refused"


class OllamaUnavailable(RetryError):
    """Ollama cannot be reached or answered with a server error; check OLLAMA_HOST."""

    code = "ollama_unavailable"


class OllamaFailed(OllamaUnavailable):
    """Ollama answered with a server error; its own sentence and its log say why."""

    code = "ollama_failed"


class DiskUnavailable(RetryError):
    """The disk cannot be used; check it and its mount, and the work goes on by itself."""

    code = "disk_unavailable"


class DiskFull(DiskUnavailable):
    """The data folder has no room; free space and the work goes on by itself."""

    code = "disk_full"


class RejectError(ModelServerError):
    """The record cannot be used as it is; correct it and send it again."""

    code = "rejected"


class MalformedRecord(RejectError):
    """The record's bytes are no JSON object in UTF-8; correct the producer."""

    code = "malformed_record"


class InvalidEvent(RejectError):
    """A field is missing or wrong; correct the producer."""

    code = "invalid_event"


class MessageTooLarge(RejectError):
    """The message is larger than what is accepted; send a shorter one."""

    code = "message_too_large"


class UnknownElder(RejectError):
    """Nothing is known of this elder; check the id, or send answers first."""

    code = "unknown_elder"


class NoAnswers(RejectError):
    """The elder has no usable answers yet; collect some and ask again."""

    code = "no_answers"


class ElderIdClash(RejectError):
    """Another elder's id differs in case alone, and Ollama takes both for one; change one."""

    code = "elder_id_clash"


class UnknownBaseModel(RejectError):
    """The base model is not in training_config.yaml; name one of those it lists."""

    code = "unknown_base_model"


class OverridesOutOfBounds(RejectError):
    """A training override is out of bounds; stay within the documented range."""

    code = "overrides_out_of_bounds"


class UnknownCommand(RejectError):
    """The command is not known; use one of the documented ones."""

    code = "unknown_command"


class UnknownJob(RejectError):
    """There is no such job; list the jobs to see their ids."""

    code = "unknown_job"


class UnknownVersion(RejectError):
    """There is no such version of this model; get the model to see its versions."""

    code = "unknown_version"


class UnknownLetter(RejectError):
    """There is no dead letter at this place; list them to see where they are."""

    code = "unknown_letter"


class JobAlreadyEnded(RejectError):
    """The job has already ended; nothing was changed."""

    code = "job_already_ended"


class ModelNotReady(RejectError):
    """The elder has no model yet; send train-requested and wait for model-ready."""

    code = "model_not_ready"


class OllamaRefused(RejectError):
    """Ollama does not accept the call; see its log for the reason."""

    code = "ollama_refused"


class HostFailed(RejectError):
    """The model host fails at this model, and at no other; see its own sentence and its log."""

    code = "host_failed"


class FormUnsupported(RejectError):
    """The model host does not serve this form; set MODELSERVER_HOST__FORM to auto, or replace it.

    `modelserver doctor` says which forms it serves.
    """

    code = "form_unsupported"


class QuantizationTooLossy(RejectError):
    """The quantised model forgot what the adapter knew; set `quantization: q8_0`."""

    code = "quantization_too_lossy"


class DeadlineExceeded(RejectError):
    """The request's deadline passed before it could be answered; ask again."""

    code = "deadline_exceeded"


class ReplyTopicRefused(RejectError):
    """The reply topic is not on the allow-list; add it to the settings or use another."""

    code = "reply_topic_refused"


class TrainingFailed(RejectError):
    """The training process ended without a result; see its log for the reason."""

    code = "training_failed"


class TrainingOutOfMemory(TrainingFailed):
    """Training ran out of memory even with the smallest batch; use a smaller base model."""

    code = "out_of_memory"


class EvaluationFailed(RejectError):
    """The new version did not know what it was taught; the previous one goes on serving."""

    code = "evaluation_failed"


class AdapterUnsupported(RejectError):
    """Adapters of this base model cannot be written as GGUF; choose another base model."""

    code = "adapter_unsupported"


class AdapterMismatch(RejectError):
    """The adapter belongs to another base model; train it again on this one."""

    code = "adapter_mismatch"


class QuantizerFailed(RejectError):
    """llama.cpp's quantiser could not write the file; see its last line, or use q8_0."""

    code = "quantizer_failed"


class ExampleTooLong(RejectError):
    """An example has more tokens than max_seq_length; raise it or build the data set again."""

    code = "example_too_long"


class ChatFormatMismatch(RejectError):
    """Base model or host does not follow the chat format; check chat_format and Ollama's log."""

    code = "chat_format_mismatch"


class FolderNotOurs(RejectError):
    """The folder holds files that ModelServer did not write; empty it or name another.

    Not fatal: it is about one base model, and jobs on others go on.
    """

    code = "folder_not_ours"


class ArtefactCorrupt(RejectError):
    """A file's hash is not the one recorded for it; it was set aside and must be rebuilt."""

    code = "artefact_corrupt"


class InternalError(RejectError):
    """A fault of ModelServer itself; its log has the place. Replay the record once it is mended."""

    code = "internal_error"


class FatalError(ModelServerError):
    """The program cannot run like this."""

    code = "fatal"


class ConfigurationError(FatalError):
    """A setting is wrong; correct it and start again."""

    code = "configuration_error"


class Interrupted(ModelServerError):
    """The work was stopped from outside."""

    code = "interrupted"


class LeaseLost(Interrupted):
    """Another worker holds this job now; what this one still writes is refused."""

    code = "lease_lost"


class JobCancelled(Interrupted):
    """The job was cancelled on request."""

    code = "cancelled"


class TrainingKilled(Interrupted):
    """The training process was killed from outside; the job goes on from its last checkpoint."""

    code = "training_killed"


class Stopped(Interrupted):
    """The program is stopping; the work is left for the next owner."""

    code = "stopped"


def error_of(code: str, message: str) -> ModelServerError:
    """Build the error with this code; an unknown code gives a ModelServerError."""
    return _by_code(ModelServerError).get(code, ModelServerError)(message)


def _by_code(root: type[ModelServerError]) -> dict[str, type[ModelServerError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found
