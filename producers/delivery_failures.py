"""Delivery failures: converts a Kafka error to the error that names the reaction to it."""

from collections.abc import Mapping

from confluent_kafka import KafkaError

from producers.refusals import refusal
from schemas.errors import (
    KafkaRefused,
    KafkaUnavailable,
    MessageTooLarge,
    NoSuchTopic,
    TopicRefused,
)

_NO_SUCH_TOPIC = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
    }
)
# The broker refuses this record in this topic; a retry alone changes nothing.
_TOPIC_REFUSES = frozenset(
    {
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
    }
)
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})


def raise_first(failures: Mapping[int, Exception]) -> None:
    """Raise the failure of the first record that failed; keys are the records' positions."""
    if failures:
        raise failures[min(failures)]


def failure_of(error: KafkaError) -> Exception:
    """Return the error for a failed delivery: retry, use another topic, or send less."""
    if error.code() in _TOO_LARGE:
        return MessageTooLarge("the event is larger than the broker accepts")
    if error.code() in _NO_SUCH_TOPIC:
        return NoSuchTopic()
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return TopicRefused()
    if error.code() in _TOPIC_REFUSES:
        return TopicRefused(f"the topic does not take the event ({error.name()})")
    if known := refusal(error):
        return KafkaRefused(known)
    return KafkaUnavailable(f"Kafka did not take the event ({error.name()})")
