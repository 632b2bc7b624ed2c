"""Bringing the topic catalogue to a broker; safe to repeat."""

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from config.settings import Settings
from schemas.base import Frozen
from schemas.errors import KafkaUnavailable
from schemas.topics import Topic, all_topics

_LIMIT_S = 30.0


class Applied(Frozen):
    """What became of one topic: `created`, `exists`, or `fewer partitions than wanted`."""

    topic: str
    outcome: str


def apply_topics(settings: Settings, partitions: int | None = None) -> list[Applied]:
    """Create what is missing; raises KafkaUnavailable. An existing topic is left as it is.

    `partitions` goes before the catalogue's number, for small installations.
    """
    admin = AdminClient(settings.kafka.client())
    try:
        there = admin.list_topics(timeout=_LIMIT_S).topics
        wanted = {broker_name(settings, t): t for t in all_topics()}
        missing = {name: topic for name, topic in wanted.items() if name not in there}
        created = _create(admin, missing, settings.kafka.replication_factor, partitions)
    except KafkaException as error:
        raise KafkaUnavailable from error
    known = [
        Applied(topic=name, outcome=_compare(len(there[name].partitions), topic, partitions))
        for name, topic in wanted.items()
        if name not in missing
    ]
    return sorted(created + known, key=lambda applied: applied.topic)


def broker_name(settings: Settings, topic: Topic) -> str:
    """The broker's name of a topic; a dead-letter topic follows the name of its source."""
    base, dash, suffix = topic.name.rpartition("-")
    if suffix == "dlt":
        return settings.topic(base) + dash + suffix
    return settings.topic(topic.name)


def _create(
    admin: AdminClient, missing: dict[str, Topic], replication: int, partitions: int | None
) -> list[Applied]:
    if not missing:
        return []
    new = [
        NewTopic(
            name,
            num_partitions=partitions or topic.partitions,
            replication_factor=replication,
            config=topic.config(),
        )
        for name, topic in missing.items()
    ]
    applied = []
    for name, future in admin.create_topics(new, operation_timeout=_LIMIT_S).items():
        try:
            future.result()
            applied.append(Applied(topic=name, outcome="created"))
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            applied.append(Applied(topic=name, outcome="exists"))
    return applied


def _compare(there: int, topic: Topic, partitions: int | None) -> str:
    wanted = partitions or topic.partitions
    return "exists" if there >= wanted else f"exists with {there} partitions, {wanted} wanted"
