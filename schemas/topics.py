"""The topic catalogue: every topic's name, direction, key, partitions, retention and clean-up.

A dead-letter topic is created with as many partitions as its source, because a dead letter keeps
its partition number (as with Spring's DeadLetterPublishingRecoverer). A source may get more
partitions later, and others may create topics: a dead letter whose partition does not exist goes to
any other one.
"""

from typing import Literal

from schemas.base import Frozen

Direction = Literal["in", "out"]
DAY_MS = 24 * 3600 * 1000
DEAD_LETTER_SUFFIX = "-dlt"
_KEY_OF_REQUEST = "that of the request"


class Topic(Frozen):
    """One topic; `compacted` keeps the last event of each key for ever."""

    name: str
    direction: Direction
    description: str
    key: str = "elder_id"
    """What the key of a record contains, in UTF-8."""
    partitions: int = 12
    retention_ms: int = 30 * DAY_MS
    compacted: bool = False
    broker_time: bool = False
    """Whether the broker's clock stamps the records: deadlines must not depend on a sender's."""
    max_message_bytes: int = 2 * 1024 * 1024

    def config(self) -> dict[str, str]:
        """Render the topic's settings for Kafka's CreateTopics."""
        config = {
            "cleanup.policy": "compact" if self.compacted else "delete",
            "retention.ms": str(-1 if self.compacted else self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
        }
        if self.broker_time:
            config["message.timestamp.type"] = "LogAppendTime"
        return config


ANSWERS_UPDATED = Topic(
    name="answers-updated", direction="in", description="An elder's answers changed."
)
TRAIN_REQUESTED = Topic(
    name="train-requested", direction="in", description="Train a model for an elder."
)
DATASET_READY = Topic(
    name="dataset-ready",
    direction="out",
    compacted=True,
    description="A data set was built from an elder's answers.",
)
TRAIN_PROGRESS = Topic(
    name="train-progress", direction="out", description="How far a training job is."
)
MODEL_READY = Topic(
    name="model-ready",
    direction="out",
    compacted=True,
    description="A model answers for an elder.",
)
CHAT_REQUESTS = Topic(
    name="chat-requests",
    direction="in",
    retention_ms=DAY_MS,
    broker_time=True,
    description="A question to an elder's model.",
)
CHAT_REPLIES = Topic(
    name="chat-replies",
    direction="out",
    key=_KEY_OF_REQUEST,
    retention_ms=DAY_MS,
    description="What the model said.",
)
MODEL_COMMANDS = Topic(
    name="model-commands",
    direction="in",
    key="`elder_id`, where the command has one",
    retention_ms=7 * DAY_MS,
    description="Ask about models, jobs and data sets, or change them.",
)
MODEL_REPLIES = Topic(
    name="model-replies",
    direction="out",
    key=_KEY_OF_REQUEST,
    retention_ms=7 * DAY_MS,
    description="The outcome of a model command.",
)

CATALOGUE: tuple[Topic, ...] = (
    ANSWERS_UPDATED,
    TRAIN_REQUESTED,
    DATASET_READY,
    TRAIN_PROGRESS,
    MODEL_READY,
    CHAT_REQUESTS,
    CHAT_REPLIES,
    MODEL_COMMANDS,
    MODEL_REPLIES,
)


def dead_letter_topic(topic: Topic) -> Topic:
    """Derive the dead-letter topic of an inbound topic; it is kept for a quarter of a year."""
    return Topic(
        name=topic.name + DEAD_LETTER_SUFFIX,
        direction="out",
        key="that of the record",
        partitions=topic.partitions,
        retention_ms=90 * DAY_MS,
        # Space for the reason beside the largest record.
        max_message_bytes=topic.max_message_bytes + 1024 * 1024,
        description=f"Records of {topic.name} that could not be used, as they came.",
    )


def all_topics() -> tuple[Topic, ...]:
    """List the catalogue with the dead-letter topic of each inbound topic."""
    return CATALOGUE + tuple(dead_letter_topic(t) for t in CATALOGUE if t.direction == "in")
