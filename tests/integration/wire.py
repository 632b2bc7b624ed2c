"""A plain Kafka client for tests: it sends bytes, and keeps every record of the topics it reads."""

from collections.abc import Callable
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition

from consumers.kafka.records import to_record
from schemas.record import Header, Record
from tests.waiting import wait_for

CALL_LIMIT_S = 60.0
"""How long one call to the broker may take."""
_MAX_BYTES = 4 * 1024 * 1024


class Wire:
    """A producer and a consumer without a group; `seen` has every record that was read."""

    def __init__(self, bootstrap_servers: str) -> None:
        client = {"bootstrap.servers": bootstrap_servers, "log_level": 2}
        self._producer = Producer(client | {"linger.ms": 0, "message.max.bytes": _MAX_BYTES})
        self._consumer = Consumer(
            client
            | {
                "group.id": f"wire-{uuid4().hex}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": _MAX_BYTES,
            }
        )
        self.seen: list[Record] = []

    def read(self, topics: list[str]) -> None:
        """Start to read all partitions of these topics from their beginning."""

        def missing() -> set[str]:
            return set(topics) - set(self._consumer.list_topics(timeout=CALL_LIMIT_S).topics)

        # A broker of a cluster may hear of a new topic later than the one that created it.
        wait_for(lambda: not missing(), "the broker knows all topics", progress=missing)
        known = self._consumer.list_topics(timeout=CALL_LIMIT_S).topics
        self._consumer.assign(
            [TopicPartition(t, p, 0) for t in topics for p in known[t].partitions]
        )

    def send(
        self,
        topic: str,
        value: bytes | None,
        *headers: Header,
        key: bytes | None = None,
        partition: int = 0,
    ) -> None:
        """Send one record and wait until the broker has it."""
        self._producer.produce(
            topic, key=key, value=value, headers=list(headers), partition=partition
        )
        assert self._producer.flush(CALL_LIMIT_S) == 0, f"the broker did not take it: {topic}"

    def find(self, wanted: Callable[[Record], bool], what: str) -> Record:
        """Wait for a record that is wanted and return the first, past or to come.

        Fails with `what` once no record at all has come for a while.
        """
        found: list[Record] = []
        position = 0

        def is_found() -> bool:
            nonlocal position
            if position == len(self.seen):
                self._take(0.1)
            found.extend(record for record in self.seen[position:] if wanted(record))
            position = len(self.seen)
            return bool(found)

        wait_for(
            is_found,
            what,
            progress=lambda: f"{len(self.seen)} records",
            pause=lambda _seconds: None,  # Each look waits for a record itself.
        )
        return found[0]

    def all(self, wanted: Callable[[Record], bool]) -> list[Record]:
        """Return the wanted records that have come until now."""
        self.take_all()
        return [r for r in self.seen if wanted(r)]

    def take_all(self) -> None:
        """Read until no record has come for a moment."""
        while self._take(0.3):
            pass

    def _take(self, wait_s: float) -> bool:
        message = self._consumer.poll(wait_s)
        if message is None or message.error() is not None:
            return False
        self.seen.append(to_record(message))
        return True

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
