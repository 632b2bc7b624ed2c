"""Refusals: failed authentication and missing rights in Kafka, and what an operator can do.

librdkafka retries after such an error, but only an operator can end it. Each is therefore reported
in a sentence of our own that says what to do; Kafka's own text is left out.
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
    """Return a sentence on what Kafka refuses and what to do; None for any other error."""
    if "SSL alert" in error.str():
        # In TLS 1.3 a broker rejects a client's certificate only after the handshake.
        return _SENTENCES[KafkaError._SSL]
    return _SENTENCES.get(error.code())


class Refusals:
    """Remembers the last refusal among a client's errors; `note` is its `error_cb`."""

    def __init__(self) -> None:
        self.last: str | None = None

    def note(self, error: KafkaError) -> None:
        """Note an error of the client."""
        self.last = refusal(error) or self.last

    def unavailable(self, error: KafkaException) -> KafkaUnavailable:
        """Return why a call failed: KafkaRefused if Kafka refused it, else KafkaUnavailable."""
        known = refusal(error.args[0]) or self.last
        return KafkaRefused(known) if known else KafkaUnavailable()


@contextmanager
def client_made() -> Iterator[None]:
    """Raise ConfigurationError if librdkafka rejects the settings."""
    try:
        yield
    except KafkaException as error:
        raise ConfigurationError(
            "MODELSERVER_KAFKA__SECURITY: the Kafka client cannot use these settings "
            f"({error.args[0].name()}); check certificate, key, key_password and ca"
        ) from None
