"""Dispatch: a record is done, set aside, or waited with; never lost and never tried for ever."""

import threading
from collections.abc import Callable, Sequence

import pytest

from config.metrics import Metrics
from consumers.kafka.dispatch import Dispatcher, Received, Rejection
from consumers.kafka.lanes import Work
from consumers.kafka.offsets import Ticket
from producers.publisher import Publication
from schemas.errors import (
    InvalidEvent,
    KafkaUnavailable,
    MessageTooLarge,
    NoSuchTopic,
    RejectError,
    Stopped,
    StoreUnavailable,
    TopicRefused,
)
from schemas.record import Record
from tests.fakes.publisher import RecordingPublisher
from tests.fakes.records import record

TOPIC = "train-requested"


class ListingHandler:
    """Does what a function says to each record; notes the batches it was given."""

    def __init__(self, act: Callable[[bytes], None] = lambda value: None) -> None:
        self.act = act
        self.batches: list[list[bytes]] = []
        self.reply: Publication | None = None
        self.fault_of_reply: Exception | None = None

    def handle(self, received: Sequence[Received]) -> list[Rejection]:
        values = [one.envelope.data for one in received]
        self.batches.append(values)
        refused: list[Rejection] = []
        for one in received:
            try:
                self.act(one.envelope.data)
            except RejectError as error:
                refused.append((one, error))
        return refused

    def refuse(self, record: Record, error: RejectError) -> Publication | None:
        if self.fault_of_reply is not None:
            raise self.fault_of_reply
        return self.reply


class EscapingHandler(ListingHandler):
    """Lets an error of one record end the call."""

    def handle(self, received: Sequence[Received]) -> list[Rejection]:
        for one in received:
            self.act(one.envelope.data)
        return []


class Bench:
    """A dispatcher over fakes."""

    def __init__(
        self,
        handler: ListingHandler,
        *failures: Exception | None,
        partitions: int | None = None,
    ) -> None:
        self.publisher = RecordingPublisher(*failures, partitions=partitions)
        self.stop = threading.Event()
        self.metrics = Metrics()
        self._dispatcher = Dispatcher(
            TOPIC,
            "group",
            handler,
            self.publisher.confirm,
            self.metrics,
            self.stop,
            max_bytes=1000,
        )

    def process(self, *values: bytes) -> None:
        ticket = Ticket(topic=TOPIC, partition=0, offset=0, assignment=1)
        records = [record(value, offset=i) for i, value in enumerate(values)]
        self._dispatcher.process([Work(record=r, ticket=ticket) for r in records])

    def dead_letters(self) -> dict[bytes | None, bytes | None]:
        """Value and error code of each dead letter."""
        return {
            p.value: dict(p.headers).get("heirloom_error-code") for p in self.publisher.published
        }

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"modelserver_{name}", labels) or 0.0


def raising(*errors: Exception | None) -> Callable[[bytes], None]:
    """Raise these one after the other, then nothing."""
    left = list(errors)

    def act(value: bytes) -> None:
        error = left.pop(0) if left else None
        if error is not None:
            raise error

    return act


def refusing(bad: bytes, error: Exception) -> Callable[[bytes], None]:
    """Raise for one value."""

    def act(value: bytes) -> None:
        if value == bad:
            raise error

    return act


def test_good_records_are_handled_together_and_leave_no_dead_letter() -> None:
    handler = ListingHandler()
    bench = Bench(handler)
    bench.process(b"1", b"2")
    assert handler.batches == [[b"1", b"2"]]
    assert bench.publisher.published == []
    assert bench.sample("messages_consumed_total", topic=TOPIC, outcome="done") == 2


def test_refused_record_is_a_confirmed_dead_letter_before_it_counts_as_done() -> None:
    bench = Bench(ListingHandler(refusing(b"2", InvalidEvent("why"))))
    bench.process(b"1", b"2", b"3")
    assert bench.dead_letters() == {b"2": b"invalid_event"}
    (dead,) = bench.publisher.published
    assert dead.topic == f"{TOPIC}-dlt"
    assert bench.sample("messages_consumed_total", topic=TOPIC, outcome="done") == 2
    assert bench.sample("dead_letters_total", topic=TOPIC, reason="invalid_event") == 1


def test_unreadable_envelope_never_reaches_the_handler() -> None:
    handler = ListingHandler()
    bench = Bench(handler)
    bench.process(b"1", b"x" * 1001)
    assert handler.batches == [[b"1"]]
    assert list(bench.dead_letters().values()) == [b"message_too_large"]


def test_dead_letter_is_tried_until_the_broker_has_it() -> None:
    bench = Bench(ListingHandler(refusing(b"1", InvalidEvent())), KafkaUnavailable())
    bench.process(b"1")
    assert bench.publisher.tries == 2
    assert bench.dead_letters() == {b"1": b"invalid_event"}


def test_dead_letter_topic_with_fewer_partitions_than_its_source_stalls_nothing() -> None:
    """The dead letter of partition 3 was tried for ever where there are but three."""
    bench = Bench(ListingHandler(refusing(b"2", InvalidEvent())), partitions=3)
    bench.process(b"1", b"2")
    (dead,) = bench.publisher.published
    assert (dead.value, dead.partition) == (b"2", None)
    assert dict(dead.headers)["kafka_dlt-original-partition"] == b"\x00\x00\x00\x03"


def test_emptied_dead_letter_too_goes_to_another_partition() -> None:
    bench = Bench(ListingHandler(), MessageTooLarge(), partitions=3)
    bench.process(b"x" * 600_000)
    (dead,) = bench.publisher.published
    assert (dead.value, dead.partition) == (None, None)


def test_dependency_that_is_down_is_waited_for_and_gives_no_dead_letter() -> None:
    handler = ListingHandler(raising(StoreUnavailable(), StoreUnavailable()))
    bench = Bench(handler)
    bench.process(b"1")
    assert handler.batches == [[b"1"]] * 3
    assert bench.publisher.published == []
    assert bench.sample("retries_total", topic=TOPIC, reason="store_unavailable") == 2


def test_stop_while_waiting_leaves_the_record_to_the_next_owner() -> None:
    bench = Bench(ListingHandler(raising(*[StoreUnavailable()] * 100)))
    bench.stop.set()
    with pytest.raises(Stopped):
        bench.process(b"1")
    assert bench.publisher.published == []


def test_bug_in_a_handler_sets_only_the_one_record_aside() -> None:
    handler = ListingHandler(refusing(b"2", ZeroDivisionError("elder's words")))
    bench = Bench(handler)
    bench.process(b"1", b"2", b"3")
    assert bench.dead_letters() == {b"2": b"internal_error"}
    assert handler.batches[1:] == [[b"1"], [b"2"], [b"3"]]
    (dead,) = bench.publisher.published
    assert b"words" not in b"".join(value or b"" for _, value in dead.headers)


def test_error_reply_takes_the_place_of_the_dead_letter() -> None:
    handler = ListingHandler(refusing(b"1", InvalidEvent()))
    handler.reply = Publication(topic="replies", key=None, value=b"no", headers=())
    bench = Bench(handler)
    bench.process(b"1")
    assert [p.topic for p in bench.publisher.published] == ["replies"]


def test_error_reply_to_a_place_that_does_not_exist_becomes_a_dead_letter() -> None:
    handler = ListingHandler(refusing(b"1", InvalidEvent()))
    handler.reply = Publication(topic="nowhere", key=None, value=b"no", headers=(), partition=99)
    bench = Bench(handler, NoSuchTopic())
    bench.process(b"1")
    assert [p.topic for p in bench.publisher.published] == [f"{TOPIC}-dlt"]


@pytest.mark.parametrize("failure", [MessageTooLarge(), TopicRefused(), ValueError("a NUL")])
def test_error_reply_that_cannot_be_sent_becomes_a_dead_letter(failure: Exception) -> None:
    """As one that carries back a key of nearly 2 MiB: it would have ended the lane."""
    handler = ListingHandler(refusing(b"1", InvalidEvent()))
    handler.reply = Publication(topic="replies", key=None, value=b"no", headers=())
    bench = Bench(handler, failure)
    bench.process(b"1")
    assert bench.dead_letters() == {b"1": b"invalid_event"}


def test_fault_in_making_the_error_reply_leaves_the_dead_letter() -> None:
    handler = ListingHandler(refusing(b"1", InvalidEvent()))
    handler.fault_of_reply = ZeroDivisionError()
    bench = Bench(handler)
    bench.process(b"1")
    assert bench.dead_letters() == {b"1": b"invalid_event"}


def test_refusal_that_a_handler_let_through_is_that_records() -> None:
    """What was published for a record can be refused too, as a reply that is too large."""
    bench = Bench(EscapingHandler(refusing(b"2", MessageTooLarge())))
    bench.process(b"1", b"2", b"3")
    assert bench.dead_letters() == {b"2": b"message_too_large"}


def test_dead_letter_larger_than_its_topic_takes_is_emptied_and_names_the_place() -> None:
    """A record of megabytes that was sent compressed: its dead letter would be refused for ever."""
    bench = Bench(ListingHandler(), MessageTooLarge())
    bench.process(b"x" * 600_000)
    (dead,) = bench.publisher.published
    headers = dict(dead.headers)
    assert (dead.key, dead.value) == (None, None)
    assert headers["kafka_dlt-original-topic"] == TOPIC.encode()
    assert headers["heirloom_error-code"] == b"message_too_large"
    assert "heirloom_left-out" in headers


def test_dead_letter_topic_that_takes_little_gets_emptied_dead_letters() -> None:
    bench = Bench(ListingHandler(raising(*[InvalidEvent()] * 2)), *[MessageTooLarge()] * 2)
    bench.process(b"1")
    (dead,) = bench.publisher.published
    assert dead.value is None


def test_dead_letter_topic_that_takes_nothing_is_waited_for() -> None:
    bench = Bench(ListingHandler(raising(InvalidEvent())), *[MessageTooLarge()] * 3)
    bench.process(b"1")
    assert bench.dead_letters() == {b"1": b"invalid_event"}
    assert bench.sample("retries_total", topic=TOPIC, reason="topic_refused") == 1
