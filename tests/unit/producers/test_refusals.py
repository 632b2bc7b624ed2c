"""Kafka's refusals are told in sentences of our own, and a dead producer is replaced."""

from concurrent.futures import wait
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

import producers.publisher
from config.kafka import KafkaSettings
from config.kafka_security import Tls, TlsFiles
from config.metrics import Metrics
from producers.publisher import KafkaPublisher, Publication
from producers.refusals import Refusals, client_made, refusal
from schemas.errors import ConfigurationError, KafkaRefused, KafkaUnavailable

LIMIT_S = 10.0
SENT = Publication(topic="t", key=None, value=b"{}", headers=())


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (KafkaError._AUTHENTICATION, "password"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "password"),
        (KafkaError._SSL, "tls.ca"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "topic"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "group"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "Write"),
    ],
)
def test_refusal_says_what_to_do_and_not_what_the_broker_said(code: int, names: str) -> None:
    told = refusal(KafkaError(code, "hunter2")) or ""
    assert names in told and "hunter2" not in told


@pytest.mark.parametrize("code", [KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN])
def test_broker_that_is_away_refuses_nothing(code: int) -> None:
    assert refusal(KafkaError(code)) is None


def test_refused_client_certificate_is_known_by_its_alert() -> None:
    error = KafkaError(KafkaError._TRANSPORT, "Receive failed: SSL alert number 42")
    assert "certificate" in (refusal(error) or "")


def test_call_that_fails_is_told_with_the_last_refusal() -> None:
    refusals, away = Refusals(), KafkaException(KafkaError(KafkaError._TRANSPORT))
    assert type(refusals.unavailable(away)) is KafkaUnavailable
    refusals.note(KafkaError(KafkaError._AUTHENTICATION))
    refusals.note(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert isinstance(refusals.unavailable(away), KafkaRefused)


def test_certificate_that_is_none_is_a_wrong_setting(tmp_path: Any) -> None:
    file = tmp_path / "no.pem"
    file.write_text("no certificate", encoding="ascii")
    settings = KafkaSettings(security=Tls(protocol="SSL", tls=TlsFiles(ca=file)))
    with pytest.raises(ConfigurationError, match="MODELSERVER_KAFKA__SECURITY"):
        KafkaPublisher(settings, Metrics())
    with pytest.raises(ConfigurationError), client_made():
        raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "hunter2"))


class MortalProducer:
    """The client as it is after a fatal error: raised once by poll, then by each produce."""

    made: list["MortalProducer"]
    mortal: bool

    def __init__(self, config: dict[str, Any]) -> None:
        self.dies = self.mortal and not self.made
        self.dead = False
        self._held: list[Any] = []
        self.made.append(self)

    def produce(self, topic: str, *, on_delivery: Any, **rest: Any) -> None:
        if self.dead:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        self._held.append(on_delivery)

    def poll(self, wait_s: float) -> None:
        if self.dies and not self.dead and self._held:
            self.dead = True
            raise KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED))
        while self._held:
            error = KafkaError(KafkaError._PURGE_QUEUE) if self.dead else None
            self._held.pop(0)(error, None)

    def purge(self) -> None:
        """Its deliveries fail at the next poll."""

    def flush(self, limit_s: float) -> None:
        self.poll(0)

    def __len__(self) -> int:
        return len(self._held)


def test_dead_producer_is_told_and_replaced_at_the_next_publication(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """librdkafka's Producer cannot be handed in: what is made anew is made by its name."""
    monkeypatch.setattr(MortalProducer, "made", [], raising=False)
    monkeypatch.setattr(MortalProducer, "mortal", True, raising=False)
    monkeypatch.setattr(producers.publisher, "Producer", MortalProducer)
    with KafkaPublisher(KafkaSettings(), Metrics()) as publisher:
        first = publisher.publish(SENT)
        assert isinstance(first.exception(LIMIT_S), KafkaUnavailable)
        with pytest.raises(KafkaRefused, match="Write"):
            publisher.check()
        later = [publisher.publish(SENT) for _ in range(3)]
        done, missing = wait(later, LIMIT_S)
        assert not missing and all(future.exception() is None for future in done)
        publisher.check()
        assert len(MortalProducer.made) == 2
