"""What a failed delivery asks for: to wait, to go elsewhere, or to send less."""

import pytest
from confluent_kafka import KafkaError

from producers.delivery_failures import failure_of
from schemas.errors import (
    KafkaRefused,
    KafkaUnavailable,
    MessageTooLarge,
    NoSuchTopic,
    TopicRefused,
)


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (KafkaError._TRANSPORT, KafkaUnavailable),
        (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaUnavailable),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaRefused),
        (KafkaError._UNKNOWN_PARTITION, NoSuchTopic),
        (KafkaError.TOPIC_EXCEPTION, NoSuchTopic),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, TopicRefused),
        (KafkaError.INVALID_RECORD, TopicRefused),
        (KafkaError.POLICY_VIOLATION, TopicRefused),
        (KafkaError.MSG_SIZE_TOO_LARGE, MessageTooLarge),
        (KafkaError.RECORD_LIST_TOO_LARGE, MessageTooLarge),
    ],
)
def test_failure_of_a_delivery_is_named_by_its_reaction(
    code: int, failure: type[Exception]
) -> None:
    assert type(failure_of(KafkaError(code))) is failure


def test_topic_that_refuses_is_as_good_as_none_to_who_was_asked_to_reply_there() -> None:
    assert issubclass(TopicRefused, NoSuchTopic)
