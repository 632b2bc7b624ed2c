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
    │   ├── UnknownCommand, UnknownJob, UnknownVersion, UnknownDeadLetter, JobAlreadyEnded
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

Each class has a stable `code`, which events and replies carry. Its docstring is its default message
and its entry in docs/reference/errors.md: what happened, then after a semicolon what to do next. A
message never quotes an elder's words.

Each file has the classes of one subject. Import all of them from this package: it sets itself as
their `__module__`, because dead letters carry `schemas.errors.<class>`.
"""

from schemas.errors.codes import error_of
from schemas.errors.dependencies import (
    DiskFull,
    DiskUnavailable,
    KafkaRefused,
    KafkaUnavailable,
    NoSuchTopic,
    OllamaFailed,
    OllamaUnavailable,
    StoreRefused,
    StoreUnavailable,
    TopicRefused,
)
from schemas.errors.hosting import (
    ChatFormatMismatch,
    FormUnsupported,
    HostFailed,
    OllamaRefused,
    QuantizationTooLossy,
    QuantizerFailed,
)
from schemas.errors.interruptions import JobCancelled, LeaseLost, Stopped, TrainingKilled
from schemas.errors.program import ConfigurationError, InternalError
from schemas.errors.reactions import (
    FatalError,
    Interrupted,
    ModelServerError,
    RejectError,
    RetryError,
)
from schemas.errors.requests import (
    DeadlineExceeded,
    ElderIdClash,
    InvalidEvent,
    JobAlreadyEnded,
    MalformedRecord,
    MessageTooLarge,
    ModelNotReady,
    NoAnswers,
    OverridesOutOfBounds,
    ReplyTopicRefused,
    UnknownBaseModel,
    UnknownCommand,
    UnknownDeadLetter,
    UnknownElder,
    UnknownJob,
    UnknownVersion,
)
from schemas.errors.training import (
    AdapterMismatch,
    AdapterUnsupported,
    ArtefactCorrupt,
    EvaluationFailed,
    ExampleTooLong,
    FolderNotOurs,
    TrainingFailed,
    TrainingOutOfMemory,
)

__all__ = [
    "AdapterMismatch",
    "AdapterUnsupported",
    "ArtefactCorrupt",
    "ChatFormatMismatch",
    "ConfigurationError",
    "DeadlineExceeded",
    "DiskFull",
    "DiskUnavailable",
    "ElderIdClash",
    "EvaluationFailed",
    "ExampleTooLong",
    "FatalError",
    "FolderNotOurs",
    "FormUnsupported",
    "HostFailed",
    "InternalError",
    "Interrupted",
    "InvalidEvent",
    "JobAlreadyEnded",
    "JobCancelled",
    "KafkaRefused",
    "KafkaUnavailable",
    "LeaseLost",
    "MalformedRecord",
    "MessageTooLarge",
    "ModelNotReady",
    "ModelServerError",
    "NoAnswers",
    "NoSuchTopic",
    "OllamaFailed",
    "OllamaRefused",
    "OllamaUnavailable",
    "OverridesOutOfBounds",
    "QuantizationTooLossy",
    "QuantizerFailed",
    "RejectError",
    "ReplyTopicRefused",
    "RetryError",
    "Stopped",
    "StoreRefused",
    "StoreUnavailable",
    "TopicRefused",
    "TrainingFailed",
    "TrainingKilled",
    "TrainingOutOfMemory",
    "UnknownBaseModel",
    "UnknownCommand",
    "UnknownDeadLetter",
    "UnknownElder",
    "UnknownJob",
    "UnknownVersion",
    "error_of",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
