"""Which rights in Kafka each role needs. No role needs more than this list grants.

docs/security.md shows the list, and a test with a real broker gives each role exactly these rights.
"""

from collections.abc import Iterator
from typing import Literal

from schemas.base import Frozen
from schemas.topics import (
    ANSWERS_UPDATED,
    CHAT_REPLIES,
    CHAT_REQUESTS,
    DATASET_READY,
    MODEL_COMMANDS,
    MODEL_READY,
    MODEL_REPLIES,
    TRAIN_PROGRESS,
    TRAIN_REQUESTED,
    Topic,
    all_topics,
    dead_letter_topic,
)

Resource = Literal["topic", "group"]
Operation = Literal["Read", "Write", "Describe", "Create"]
ROLE_TOPICS: dict[str, tuple[Topic, tuple[Topic, ...]]] = {
    "answers": (ANSWERS_UPDATED, (DATASET_READY,)),
    "training": (TRAIN_REQUESTED, (TRAIN_PROGRESS, MODEL_READY)),
    "chat": (CHAT_REQUESTS, (CHAT_REPLIES,)),
    "models": (MODEL_COMMANDS, (MODEL_REPLIES,)),
}
"""The topic that each role reads, and those it writes beside that topic's dead letters."""


class Right(Frozen):
    """One right, as an ACL grants it. In Kafka, Read and Write imply Describe.

    `name` is a topic's name in the catalogue, or the part of a group's name after the group
    prefix. With `prefix`, the right is for every name that begins with `name`.
    """

    principal: str
    operation: Operation
    resource: Resource
    name: str
    prefix: bool = False


def topics_of(role: str) -> tuple[Topic, ...]:
    """List the topics that a role needs at its start."""
    reads, writes = ROLE_TOPICS[role]
    return (reads, *writes, dead_letter_topic(reads))


def all_rights() -> tuple[Right, ...]:
    """List the rights of the roles, of the operator, and of the programs around them."""
    return (*_roles(), *_operator(), *_neighbours())


def _roles() -> Iterator[Right]:
    for role, (reads, writes) in ROLE_TOPICS.items():
        yield Right(principal=role, operation="Read", resource="group", name=role)
        yield _topic(role, "Read", reads)
        for topic in (*writes, dead_letter_topic(reads)):
            yield _topic(role, "Write", topic)


def _operator() -> Iterator[Right]:
    """Yield what `topics apply`, `doctor`, `train`, `chat` and `dlt` need."""
    for topic in all_topics():
        yield _topic("operator", "Create", topic)
        yield _topic("operator", "Describe", topic)
    for reads, _ in ROLE_TOPICS.values():
        yield _topic("operator", "Write", reads)
        yield _topic("operator", "Read", dead_letter_topic(reads))
    for topic in (TRAIN_PROGRESS, CHAT_REPLIES):
        yield _topic("operator", "Read", topic)
    yield Right(principal="operator", operation="Read", resource="group", name="dlt")
    yield Right(
        principal="operator", operation="Read", resource="group", name="follower-", prefix=True
    )


def _neighbours() -> Iterator[Right]:
    """Yield what the upstream app and the family app need; their groups are their own."""
    for topic in (ANSWERS_UPDATED, TRAIN_REQUESTED, MODEL_COMMANDS):
        yield _topic("upstream", "Write", topic)
    for topic in (DATASET_READY, TRAIN_PROGRESS, MODEL_READY, MODEL_REPLIES):
        yield _topic("upstream", "Read", topic)
    yield _topic("family", "Write", CHAT_REQUESTS)
    yield _topic("family", "Read", CHAT_REPLIES)


def _topic(principal: str, operation: Operation, topic: Topic) -> Right:
    return Right(principal=principal, operation=operation, resource="topic", name=topic.name)
