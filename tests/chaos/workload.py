"""The traffic of a run: what upstream and the families send, and whether the broker has it."""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from confluent_kafka import Producer

from pipeline.storage.mongo import Store
from schemas.base import Frozen
from schemas.record import Header

Outcome = Literal["ok", "failed", "unknown"]
SEND_LIMIT_S = 60.0
SENT_AS = "sent-as"
ROLLBACK = "m3"
ASKING = frozenset({"chat-requests", "model-commands"})
_CHAT_EVERY_S = 0.2
SOURCE = "upstream"


class Operation(Frozen):
    """One record that was sent; `outcome` is unknown where the broker did not confirm it."""

    topic: str
    event_id: str
    elder_id: str
    valid: bool
    outcome: Outcome


class Elder(Frozen):
    """An elder of the run. Each of her answers contains her mark, and nobody else's does."""

    id: str
    name: str
    mark: str
    answers: tuple[tuple[str, str], ...]


def make_elders(run: str) -> tuple[Elder, ...]:
    """Make two elders with answers, and a third without any."""
    told = []
    for name, place in (("A", "Stromness"), ("B", "Lerwick")):
        mark = f"{run}{name}mark"
        answers = (
            ("Where were you born?", f"I was born in {place}, {mark}."),
            ("What was your trade?", f"I built boats of larch, {mark}."),
            ("What did you eat on Sundays?", f"Mutton broth with barley, {mark}."),
            ("Who was your mother?", f"Her name was Ann, {mark}."),
        )
        told.append(Elder(id=f"{run}-{name}", name=f"Elder {name}", mark=mark, answers=answers))
    return (*told, Elder(id=f"{run}-C", name="Elder C", mark=f"{run}Cmark", answers=()))


def store_answers(store: Store, elders: Iterable[Elder]) -> None:
    """Store the elders' answers in the database, as upstream does."""
    for elder in elders:
        documents = [
            {"_id": f"{elder.id}-{i}", "elderId": elder.id, "question": q, "answer": a}
            for i, (q, a) in enumerate(elder.answers)
        ]
        if documents:
            store["answers"].insert_many(documents)


def doomed_job(elder: Elder) -> str:
    """Return the id of the elder's job that a command tries to cancel."""
    return f"{elder.id}-doomed"


class Upstream:
    """Sends the records of a run; each send appends an operation."""

    def __init__(self, bootstrap_servers: str, prefix: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "log_level": 2,
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "delivery.timeout.ms": int(SEND_LIMIT_S * 1000),
            }
        )
        self._prefix = prefix

    def requests(
        self, elders: tuple[Elder, ...], operations: list[Operation], chance: random.Random
    ) -> None:
        """Send all but the chats with models: in random order, some twice, clocks an hour off."""
        a, b, c = elders
        doomed = doomed_job(b)
        hour = timedelta(hours=1)
        sends: list[tuple[Callable[..., Operation], tuple[Elder, str], dict[str, Any]]] = [
            # Both are forced, so that there are two versions whichever comes first.
            (self._train, (a, "t1"), {"force_retrain": True}),
            (self._train, (b, "t2"), {}),
            (self._train, (b, "t2"), {}),
            (self._train, (a, "t3"), {"force_retrain": True, "clock": -hour}),
            (self._train, (c, "t4"), {}),
            (self._train, (b, "t5"), {"clock": hour}),
            (self._train, (b, "t6"), {"job_id": doomed, "force_retrain": True}),
            (self._command, (b, "m1"), {"command": "cancel_job", "job_id": doomed}),
            (self._command, (a, "m2"), {"command": "jobs", "elder_id": a.id}),
            (self._updated, (a, "u1"), {}),
            (self._updated, (b, "u2"), {}),
            (self._chat, (c, "c1"), {}),
            (self._poison, (a, "p1"), {"topic": "train-requested"}),
            (self._poison, (a, "p2"), {"topic": "chat-requests"}),
            (self._poison, (b, "p3"), {"topic": "answers-updated"}),
            (self._poison, (b, "p4"), {"topic": "model-commands"}),
        ]
        chance.shuffle(sends)
        for send, arguments, options in sends:
            operations.append(send(*arguments, **options))

    def chats(
        self, elders: tuple[Elder, ...], operations: list[Operation], go_on: Callable[[], bool]
    ) -> None:
        """Ask the models: one question twice, one streamed; then more while `go_on()` is true.

        Between the questions, a command that is sent twice rolls one elder's model back.
        """
        a, b, _ = elders
        operations += [
            self._chat(a, "q0"),
            self._chat(b, "q1"),
            self._command(a, ROLLBACK, command="rollback", elder_id=a.id),
            self._chat(a, "q2", stream=True),
            self._command(a, ROLLBACK, command="rollback", elder_id=a.id),
            self._chat(b, "q3"),
            self._chat(b, "q3"),
        ]
        for number in itertools.count():
            if not go_on():
                return
            operations.append(self._chat((a, b)[number % 2], f"w{number}", stream=number % 3 == 2))
            time.sleep(_CHAT_EVERY_S)

    def _train(
        self, elder: Elder, name: str, clock: timedelta | None = None, **more: Any
    ) -> Operation:
        body = {"elder_id": elder.id, "elder_name": elder.name, **more}
        return self._send("train-requested", elder.id, name, json.dumps(body).encode(), clock)

    def _updated(self, elder: Elder, name: str) -> Operation:
        body = {"elder_id": elder.id, "elder_name": elder.name}
        return self._send("answers-updated", elder.id, name, json.dumps(body).encode())

    def _chat(self, elder: Elder, name: str, **more: Any) -> Operation:
        body = {"elder_id": elder.id, "message": "Where were you born?", **more}
        return self._send("chat-requests", elder.id, name, json.dumps(body).encode())

    def _command(self, elder: Elder, name: str, **body: Any) -> Operation:
        return self._send("model-commands", elder.id, name, json.dumps(body).encode())

    def _poison(self, elder: Elder, name: str, topic: str) -> Operation:
        return self._send(topic, elder.id, name, b'{"elder_id": "\xff', valid=False)

    def _send(
        self,
        topic: str,
        elder_id: str,
        name: str,
        value: bytes,
        clock: timedelta | None = None,
        *,
        valid: bool = True,
    ) -> Operation:
        event_id = f"{elder_id}-{name}"
        at = datetime.now(UTC) + (clock or timedelta())
        headers: list[Header] = [
            ("ce_id", event_id.encode()),
            ("ce_source", SOURCE.encode()),
            ("ce_specversion", b"1.0"),
            ("ce_type", f"heirloom.{topic}.v1".encode()),
            ("ce_time", at.isoformat().encode()),
            (SENT_AS, event_id.encode()),
        ]
        if topic in ASKING and valid:
            headers.append(("kafka_correlationId", event_id.encode()))
        told: list[bool] = []
        self._producer.produce(
            f"{self._prefix}.{topic}",
            key=elder_id.encode(),
            value=value,
            headers=headers,
            # Rounded down: a broker refuses a timestamp more than an hour ahead of its clock.
            timestamp=int(at.timestamp() * 1000),
            on_delivery=lambda error, message: told.append(error is None),
        )
        self._producer.flush(SEND_LIMIT_S + 5)
        # A failed delivery is unknown: the record may be there, and only the answer was lost.
        outcome: Outcome = "ok" if told == [True] else "unknown"
        return Operation(
            topic=topic, event_id=event_id, elder_id=elder_id, valid=valid, outcome=outcome
        )
