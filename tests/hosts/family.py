"""The families' and the upstream app's side of the story: invented elders, and what is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from pipeline.jobs.evaluation import is_right
from schemas.identifiers import model_name
from tests.integration.service import Service
from tests.waiting import wait_for

# A training of a few answers and its evaluation, on two busy cores.
TRAIN_LIMIT_S = 900.0
REPLY_LIMIT_S = 120.0
# A handful of answers needs more passes than a whole interview does.
OVERRIDES = {"epochs": 14, "learning_rate": 2e-3, "rewordings": False}
BORN, SWIM, BOAT, FIRST_JOB = (
    "Where were you born?",
    "Who taught you to swim?",
    "What was your boat called?",
    "What was your first job?",
)


@dataclass(frozen=True)
class Elder:
    """One invented person. All are asked the same questions, and each has her own answers."""

    elder_id: str
    name: str
    answers: dict[str, str]


def make_elders(count: int) -> tuple[Elder, ...]:
    """Give up to four elders whose ids nobody else has, as a host may be in use."""
    run = uuid4().hex[:6]
    lives = (
        (
            "Ann Sinclair",
            "In Skerrow, beside the salt works, on a windy night in 1941.",
            "My brother Callum did, in the cold harbour, with a rope.",
            "The Kittiwake, twelve feet long and painted bright green.",
        ),
        (
            "Rosa Keller",
            "High up in Arnbach, in the miller's house, during the great snow.",
            "Nobody; I fell off the ferry at nine and simply had to.",
            "Old Lena, a flat barge that carried barley and geese.",
        ),
        (
            "Maggie Doyle",
            "On a hay cart outside Ballycarn, halfway to the doctor.",
            "Sister Bernadette, who tied her habit up and jumped in first.",
            "We had no boat, only a door that floated, named Titanic.",
        ),
        (
            "June Whitlock",
            "Above the cinema in Port Ellery, while the piano was playing.",
            "A lifeguard named Tobias, and I married him later.",
            "The Second Chance, because the first one sank in May.",
        ),
    )
    return tuple(
        Elder(f"HOST{run}{number}", name, dict(zip((BORN, SWIM, BOAT), told, strict=True)))
        for number, (name, *told) in enumerate(lives[:count], 1)
    )


class Family:
    """Tells the service what upstream and the families would, and waits for what comes back."""

    def __init__(self, service: Service, elders: int) -> None:
        self.service = service
        self.elders = make_elders(elders)

    def wait_until(self, is_so: Callable[[], object], what: str, limit_s: float) -> None:
        """Return once the condition holds; fail when no record comes for `limit_s` seconds."""
        records = self.service.wire.seen
        wait_for(is_so, what, progress=lambda: len(records), stall_s=limit_s, limit_s=4 * limit_s)

    def tell(self, elder: Elder, question: str, answer: str) -> None:
        """Store an answer, as upstream does."""
        told = {"elderId": elder.elder_id, "question": question, "answer": answer}
        self.service.app.store["answers"].insert_one(told)

    def train(self, *elders: Elder, force: bool = False) -> dict[str, dict[str, Any]]:
        """Ask for a training of each and return each elder's `model-ready`."""
        jobs = {f"{elder.elder_id}_{uuid4().hex[:8]}": elder for elder in elders}
        for job_id, elder in jobs.items():
            request = {"elder_id": elder.elder_id, "elder_name": elder.name, "job_id": job_id}
            more = {"force_retrain": force, "overrides": OVERRIDES}
            self.service.send("train-requested", request | more, key=elder.elder_id.encode())
        return {
            elder.elder_id: self._event("model-ready", job_id) for job_id, elder in jobs.items()
        }

    def ask(self, elder: Elder, question: str) -> dict[str, Any]:
        """Ask an elder's model through Kafka and return the whole reply."""
        correlation = uuid4().hex.encode()
        request = {"elder_id": elder.elder_id, "message": question, "options": {"max_tokens": 40}}
        header = ("kafka_correlationId", correlation)
        self.service.send("chat-requests", request, header, key=elder.elder_id.encode())
        return self._reply("chat-replies", correlation)

    def command(self, command: str, elder: Elder, **fields: object) -> dict[str, Any]:
        """Send a model command and return the result; fails where it was refused."""
        correlation = uuid4().hex.encode()
        request = {"command": command, "elder_id": elder.elder_id, **fields}
        self.service.send("model-commands", request, ("kafka_correlationId", correlation))
        reply = self._reply("model-replies", correlation)
        assert reply["error"] is None, reply
        result: dict[str, Any] = reply["result"]
        return result

    def whose(self, reply: str, question: str) -> list[str]:
        """Name the elders to whose own answer the reply amounts."""
        return [e.name for e in self.elders if is_right(reply, e.answers[question])]

    def lose(self, elder: Elder) -> None:
        """Delete an elder's models on the host itself, so that the service does not know of it."""
        host = self.service.app.host
        for tag in host.tags(model_name(elder.elder_id)):
            host.delete(tag)

    def finish(self, job_id: str) -> list[str]:
        """Wait until a job has succeeded; return the stages that its events named."""

        def told() -> list[dict[str, Any]]:
            return [e for e in self._events("train-progress") if e["job_id"] == job_id]

        ended = ("succeeded", "failed", "cancelled")
        self.wait_until(
            lambda: any(e["status"] in ended for e in told()), f"the end of {job_id}", TRAIN_LIMIT_S
        )
        *_, last = told()
        assert last["status"] == "succeeded", last
        return [e["stage"] for e in told()]

    def versions(self, elder: Elder) -> dict[int, dict[str, Any]]:
        """An elder's versions as the registry tells of them, by number."""
        return {each["version"]: each for each in self.command("get", elder)["versions"]}

    def leave_no_model(self) -> None:
        """Remove what the story made on the host."""
        for elder in self.elders:
            self.lose(elder)

    def _event(self, topic: str, job_id: str) -> dict[str, Any]:
        """Wait for a job's event; a job that failed fails the test with its error."""
        found: list[dict[str, Any]] = []

        def has_ended() -> bool:
            events = self._events(topic) + self._events("train-progress")
            found[:] = [e for e in events if e["job_id"] == job_id and _is_last(e)]
            return bool(found)

        self.wait_until(has_ended, f"the end of {job_id}", TRAIN_LIMIT_S)
        assert "tag" in found[0], found[0]
        return found[0]

    def _events(self, topic: str) -> list[dict[str, Any]]:
        name = self.service.topic(topic)
        return [
            json.loads(r.value or b"{}") for r in self.service.wire.all(lambda r: r.topic == name)
        ]

    def _reply(self, topic: str, correlation: bytes) -> dict[str, Any]:
        name = self.service.topic(topic)
        wire = self.service.wire

        def replies() -> list[bytes]:
            return [
                record.value or b""
                for record in wire.all(lambda r: r.topic == name)
                if record.header("kafka_correlationId") == correlation
            ]

        self.wait_until(replies, f"a reply on {topic}", REPLY_LIMIT_S)
        data: dict[str, Any] = json.loads(replies()[0])
        return data


def _is_last(event: dict[str, Any]) -> bool:
    return "tag" in event or event.get("status") in ("failed", "cancelled")
