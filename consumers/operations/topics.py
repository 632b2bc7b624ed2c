"""Creates the catalogue's topics on a broker; safe to repeat."""

import time
from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic

from config.settings import Settings
from consumers.operations.admin import KafkaAdmin
from schemas.base import Frozen
from schemas.errors import KafkaRefused
from schemas.topics import DEAD_LETTER_SUFFIX, Topic, all_topics

_LIMIT_S = 30.0
_SEEN_LIMIT_S = 10.0
_SEEN_CHECK_S = 0.05
_FORBIDDEN = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
)


class Applied(Frozen):
    """The outcome for one topic: `created`, `exists`, or that it has too few partitions."""

    topic: str
    outcome: str


def apply_topics(
    settings: Settings, partitions: int | None = None, topics: Sequence[Topic] | None = None
) -> list[Applied]:
    """Create missing topics; existing ones are left as they are. Raises KafkaUnavailable.

    If none is missing, the right to see the topics is enough.

    Args:
        settings: Where the broker is, and how the topics are named.
        partitions: Overrides the catalogue's number of partitions, for small installations. A
            dead-letter topic always gets as many as its source has on the broker.
        topics: The topics to create; by default the whole catalogue.
    """
    admin = KafkaAdmin(settings.kafka)
    there = {name: len(found.partitions) for name, found in admin.topics(_LIMIT_S).items()}
    wanted = {broker_name(settings, t): t for t in topics or all_topics()}
    numbers = {
        name: there.get(_source(name)) or partitions or topic.partitions
        for name, topic in wanted.items()
    }
    missing = {name: topic for name, topic in wanted.items() if name not in there}
    created = _create(admin, missing, settings.kafka.replication_factor, numbers)
    _await(admin, {applied.topic for applied in created})
    known = [
        Applied(topic=name, outcome=_compare(there[name], numbers[name]))
        for name in wanted
        if name not in missing
    ]
    return sorted(created + known, key=lambda applied: applied.topic)


def _await(admin: KafkaAdmin, created: set[str]) -> None:
    """Wait until the broker lists new topics; it may report "created" a moment earlier.

    Returns without an error if they never appear: the right to create a topic does not
    include the right to see it.
    """
    deadline = time.monotonic() + _SEEN_LIMIT_S
    # This runs at every start, so the broker is not asked unless something was created.
    while created and created - set(admin.topics(_LIMIT_S)) and time.monotonic() < deadline:
        time.sleep(_SEEN_CHECK_S)


def narrow_dead_letter_topics(settings: Settings, there: Mapping[str, int]) -> list[str]:
    """Return one sentence for each dead-letter topic with fewer partitions than its source.

    `there` maps the broker's topics to their numbers of partitions.
    """
    names = [broker_name(settings, topic) for topic in all_topics()]
    return [
        f"{name} has {there[name]} partitions and {source} {there[source]}"
        for name in names
        if (source := _source(name)) and name in there and there[name] < there.get(source, 0)
    ]


def _source(name: str) -> str:
    """Return the source topic of a dead-letter topic; an empty string for any other topic."""
    is_dead_letters = name.endswith(DEAD_LETTER_SUFFIX)
    return name.removesuffix(DEAD_LETTER_SUFFIX) if is_dead_letters else ""


def broker_name(settings: Settings, topic: Topic) -> str:
    """Return a topic's name on the broker; a dead-letter topic follows the name of its source."""
    base, dash, suffix = topic.name.rpartition("-")
    if suffix == "dlt":
        return settings.topic(base) + dash + suffix
    return settings.topic(topic.name)


def _create(
    admin: KafkaAdmin, missing: dict[str, Topic], replication: int, numbers: dict[str, int]
) -> list[Applied]:
    if not missing:
        return []
    new = [
        NewTopic(
            name,
            num_partitions=numbers[name],
            replication_factor=replication,
            config=topic.config(),
        )
        for name, topic in missing.items()
    ]
    applied = []
    for name, future in admin.client.create_topics(new, operation_timeout=_LIMIT_S).items():
        try:
            future.result()
            applied.append(Applied(topic=name, outcome="created"))
        except KafkaException as error:
            code = error.args[0].code()
            if code in _FORBIDDEN:
                raise KafkaRefused(_hidden(name)) from error
            if code != KafkaError.TOPIC_ALREADY_EXISTS:
                raise admin.refusals.unavailable(error) from error
            applied.append(Applied(topic=name, outcome="exists"))
    return applied


def _hidden(name: str) -> str:
    return (
        f"this user neither sees topic {name} nor may create it; let an operator run `modelserver "
        "topics apply`, and grant the role what docs/security.md lists"
    )


def _compare(there: int, wanted: int) -> str:
    return "exists" if there >= wanted else f"exists with {there} partitions, {wanted} wanted"
