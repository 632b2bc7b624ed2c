"""The relay over fakes: an event that the broker did not take blocks its own job and no other."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Self

import pytest

from producers.publisher import Publication, to_publication
from producers.relay import Relay
from schemas.base import Frozen
from schemas.envelope import OutboundEvent
from schemas.errors import KafkaUnavailable, MessageTooLarge, TopicRefused


class Waiting(Frozen):
    """A job's events."""

    number: int
    events: tuple[OutboundEvent, ...]

    def first(self, count: int) -> Self:
        """Some of them."""
        return self.model_copy(update={"events": self.events[:count]})


class ListedOutbox:
    """Jobs in a list, each with the topics of its events."""

    def __init__(self, *jobs: tuple[str, ...]) -> None:
        self.waits = [
            Waiting(number=number, events=tuple(event(topic) for topic in job))
            for number, job in enumerate(jobs)
        ]

    def waiting(self, limit: int, skip: int = 0) -> list[Waiting]:
        return self.waits[skip : skip + limit]

    def mark_published(self, published: list[Waiting]) -> None:
        taken = {job.number: len(job.events) for job in published}
        left = {job.number: job.events[taken.get(job.number, 0) :] for job in self.waits}
        self.waits = [
            Waiting(number=number, events=events)
            for number, events in left.items()
            if events or number not in taken
        ]

    @property
    def topics(self) -> list[tuple[str, ...]]:
        return [tuple(event.topic for event in job.events) for job in self.waits]


def event(topic: str) -> OutboundEvent:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return OutboundEvent(topic=topic, key="LXM", id=topic, source="s", time=at, data={})


def relay_over(outbox: ListedOutbox, **failures: Exception) -> Relay:
    """A relay whose broker does not take what is for these topics."""

    def deliver(publications: Iterable[Publication]) -> Mapping[int, Exception]:
        topics = [p.topic for p in publications]
        return {n: failures[topic] for n, topic in enumerate(topics) if topic in failures}

    return Relay(outbox, lambda e: to_publication(e, e.topic), deliver, batch=3)


def test_what_was_published_waits_no_more() -> None:
    outbox = ListedOutbox(("a", "b"), ("c",))
    assert relay_over(outbox).run_once() == 3
    assert outbox.topics == []


def test_refused_topic_keeps_its_own_jobs_waiting_and_is_told() -> None:
    outbox = ListedOutbox(("a", "b"), ("c",), ("a",), (), ("b", "c"))
    with pytest.raises(TopicRefused):
        relay_over(outbox, b=TopicRefused()).run_once()
    assert outbox.topics == [("b",), ("b", "c")]


def test_the_first_failure_is_the_one_that_is_told() -> None:
    with pytest.raises(KafkaUnavailable):
        outbox = ListedOutbox(("a",), ("b",), ("c",))
        relay_over(outbox, b=KafkaUnavailable(), c=TopicRefused()).run_once()
    assert outbox.topics == [("b",), ("c",)]


def test_jobs_of_a_refused_topic_are_passed_over_however_many_there_are() -> None:
    """They are the oldest and fill every batch: newer ones would never be told of."""
    outbox = ListedOutbox(*[("a", "b")] * 7, ("c",), ("a",))
    with pytest.raises(TopicRefused):
        relay_over(outbox, b=TopicRefused()).run_once()
    assert outbox.topics == [("b",)] * 7


def test_what_was_published_of_a_job_is_not_published_again() -> None:
    """A topic may refuse for days; what else is told of its jobs is told once."""
    outbox = ListedOutbox(("a", "a", "b", "a"))
    for _ in range(2):
        with pytest.raises(TopicRefused):
            relay_over(outbox, b=TopicRefused()).run_once()
        assert outbox.topics == [("b", "a")]


def test_event_that_is_too_large_is_passed_over_as_well() -> None:
    outbox = ListedOutbox(("b",), ("d",), ("b",), ("c",))
    with pytest.raises(TopicRefused):
        relay_over(outbox, b=TopicRefused(), d=MessageTooLarge()).run_once()
    assert outbox.topics == [("b",), ("d",), ("b",)]


def test_jobs_of_a_refused_topic_that_fill_the_last_batch_are_told_of() -> None:
    outbox = ListedOutbox(*[("b",)] * 6)
    with pytest.raises(TopicRefused):
        relay_over(outbox, b=TopicRefused()).run_once()
    assert len(outbox.waits) == 6


def test_kafka_that_is_away_is_asked_for_one_batch_alone() -> None:
    asked: list[str] = []

    def deliver(publications: Iterable[Publication]) -> Mapping[int, Exception]:
        asked.extend(p.topic for p in publications)
        return dict.fromkeys(range(3), KafkaUnavailable())

    outbox = ListedOutbox(*[("a",)] * 9)
    with pytest.raises(KafkaUnavailable):
        Relay(outbox, lambda e: to_publication(e, e.topic), deliver, batch=3).run_once()
    assert asked == ["a"] * 3


def test_relay_that_lost_its_lease_between_two_batches_publishes_no_more() -> None:
    outbox = ListedOutbox(*[("b",)] * 3, ("c",))
    is_ours = iter((True, False))
    relay = Relay(
        outbox,
        lambda e: to_publication(e, e.topic),
        lambda publications: dict.fromkeys(range(len(list(publications))), TopicRefused()),
        lambda: next(is_ours),
        batch=3,
    )
    with pytest.raises(TopicRefused):
        relay.run_once()
    assert outbox.topics[-1] == ("c",)
