"""What Kafka refuses for good reason: who we say we are, and what we may not do.

librdkafka goes on trying after such an error, and an operator must act. So each one is told in a
sentence of our own, with what to do; Kafka's own text is left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from schemas.errors import ConfigurationError, KafkaRefused, KafkaUnavailable

_SEE = "docs/security.md lists the rights of each role"
_SENTENCES = {
    KafkaError._AUTHENTICATION: (
        "Kafka does not accept who we say we are; check user name, password or token endpoint, "
        "and mechanism in MODELSERVER_KAFKA__SECURITY"
    ),
    KafkaError._SSL: (
        "TLS with Kafka fails; check that tls.ca signed the broker's certificate, that the "
        "certificate bears the broker's host name, and the client's own certificate"
    ),
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (
        f"Kafka forbids this user the topic; grant it what its role needs: {_SEE}"
    ),
    KafkaError.GROUP_AUTHORIZATION_FAILED: (
        f"Kafka forbids this user the consumer group; grant Read on it: {_SEE}"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: (
        f"Kafka forbids this user all writing; grant Write on the topics of its role: {_SEE}"
    ),
}
_SENTENCES[KafkaError.SASL_AUTHENTICATION_FAILED] = _SENTENCES[KafkaError._AUTHENTICATION]


def refusal(error: KafkaError) -> str | None:
    """Say what Kafka refuses and what to do; None for any other error."""
    if "SSL alert" in error.str():
        # In TLS 1.3 a broker refuses a client's certificate after the handshake.
        return _SENTENCES[KafkaError._SSL]
    return _SENTENCES.get(error.code())


class Refusals:
    """Remembers the last refusal among a client's errors; `note` is its `error_cb`."""

    def __init__(self) -> None:
        self.last: str | None = None

    def note(self, error: KafkaError) -> None:
        """Take in an error."""
        self.last = refusal(error) or self.last

    def unavailable(self, error: KafkaException) -> KafkaUnavailable:
        """Say why a call failed: what was refused, or that nobody answered."""
        known = refusal(error.args[0]) or self.last
        return KafkaRefused(known) if known else KafkaUnavailable()


@contextmanager
def client_made() -> Iterator[None]:
    """Raise ConfigurationError where librdkafka does not take the settings."""
    try:
        yield
    except KafkaException as error:
        raise ConfigurationError(
            "MODELSERVER_KAFKA__SECURITY: the Kafka client cannot use these settings "
            f"({error.args[0].name()}); check certificate, key, key_password and ca"
        ) from None
