"""The whole service in this process, and a plain Kafka client beside it."""

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any, Self

from config.settings import Settings
from consumers.app import ROLES, App
from consumers.operations.topics import apply_topics
from schemas.record import Header, Record
from tests.integration.wire import Wire
from tests.waiting import wait_for_value

REPLIES = ("chat-replies", "model-replies")
OUTBOUND = ("dataset-ready", "train-progress", "model-ready", *REPLIES)
INBOUND = ("answers-updated", "train-requested", "chat-requests", "model-commands")


class Service:
    """All four roles, running while the context is open, and a plain client beside them.

    Without `wire` it is a further member of the groups that the test does not talk to.
    """

    def __init__(self, settings: Settings, wire: Wire | None) -> None:
        self.settings = settings
        self._wire = wire
        self.app = App(settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: self.app.run(ROLES, self._stop))

    def __enter__(self) -> Self:
        apply_topics(self.settings)
        if self._wire is not None:
            self._wire.read(
                [self.topic(t) for t in OUTBOUND] + [self.topic(f"{t}-dlt") for t in INBOUND]
            )
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the service must stop"

    @property
    def wire(self) -> Wire:
        """The plain client; fails for a member without one."""
        assert self._wire is not None, "this member has no client"
        return self._wire

    def wait_until_assigned(self) -> None:
        """Wait until each role has partitions."""

        def unassigned() -> dict[str, str]:
            missing = ("not started", "not assigned")
            return {role: fault for role, fault in self._faults().items() if fault in missing}

        wait_for_value({}, unassigned, "roles without partitions:")

    def wait_until_ready(self) -> None:
        """Wait until each role has partitions and every server answers."""
        wait_for_value({}, self._faults, "what is not ready:")

    def _faults(self) -> dict[str, str]:
        """What is not ready, by name. The service's own list is empty before its roles start."""
        health = self.app.health
        not_started = {role: "not started" for role in ROLES if role not in health._assigned}
        return not_started | health.faults_of_readiness()

    def topic(self, name: str) -> str:
        """Return the broker's name of a topic, or of its dead-letter topic."""
        if name.endswith("-dlt"):
            return f"{self.settings.topic(name.removesuffix('-dlt'))}-dlt"
        return self.settings.topic(name)

    def send(self, topic: str, data: object, *headers: Header, key: bytes = b"k") -> None:
        """Send `data` to partition 0: bytes and None as they are, everything else as JSON."""
        value = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
        self.wire.send(self.topic(topic), value, *headers, key=key)

    def event(self, topic: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for an event on this topic whose data is wanted; return the data."""
        name = self.topic(topic)
        found = self.wire.find(
            lambda r: r.topic == name and wanted(json.loads(r.value or b"{}")),
            f"an event on {topic}",
        )
        data: dict[str, Any] = json.loads(found.value or b"")
        return data

    def dead_letter(self, topic: str, case: str) -> Record:
        """Wait for the dead letter of the record that was sent with this `case` header."""
        name = self.topic(f"{topic}-dlt")
        return self.wire.find(
            lambda r: r.topic == name and r.header("case") == case.encode(), f"dead letter: {case}"
        )

    def reply(self, topic: str, correlation: bytes) -> Record:
        """Wait for the reply with this correlation id."""
        name = self.topic(topic)
        return self.wire.find(
            lambda r: r.topic == name and r.header("kafka_correlationId") == correlation,
            f"a reply to {correlation!r}",
        )

    def ask(self, command: dict[str, Any], *headers: Header) -> dict[str, Any]:
        """Send a model command and return the body of its reply."""
        correlation = hashlib.sha256(json.dumps(command).encode()).digest()
        self.send("model-commands", command, ("kafka_correlationId", correlation), *headers)
        data: dict[str, Any] = json.loads(self.reply("model-replies", correlation).value or b"")
        return data

    def answers(self, elder_id: str, *pairs: tuple[str, str]) -> None:
        """Store pairs of question and answer in the database, as upstream does."""
        self.app.store["answers"].insert_many(
            [
                {"_id": f"{elder_id}-{i}", "elderId": elder_id, "question": q, "answer": a}
                for i, (q, a) in enumerate(pairs)
            ]
        )
