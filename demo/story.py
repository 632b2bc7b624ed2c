"""The demo's requests to the service, as the upstream app and the family app would send them."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pymongo import MongoClient

from config.settings import Settings
from consumers.client import Follower, Sender, new_id, with_correlation
from demo.elders import Elder, Question
from schemas.base import Frozen
from schemas.errors import TrainingFailed
from schemas.events import AnswersUpdated, ChatOptions, ChatRequest, TrainRequested
from schemas.topics import CHAT_REPLIES, DATASET_READY, MODEL_READY, TRAIN_PROGRESS

_TRAIN_LIMIT_S = 1800.0
_CHAT_LIMIT_S = 600.0

# Long: all questions are sent at once, and the last one waits for all others.
_OPTIONS = ChatOptions(deadline_ms=int(_CHAT_LIMIT_S * 1000), max_tokens=96)

OnEvent = Callable[[str, dict[str, Any]], None]


class Asked(Frozen):
    """A question with what came back."""

    elder_id: str
    question: Question
    reply: str
    right: bool


def store_answers(settings: Settings, elders: Sequence[Elder]) -> None:
    """Put the elders' answers where upstream keeps them."""
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongodb.uri.get_secret_value())
    with client:
        answers = client[settings.mongodb.database][settings.mongodb.answers_collection]
        for elder in elders:
            answers.insert_many(
                {
                    "elderId": elder.elder_id,
                    "question": taught.question,
                    "answer": taught.answer,
                    "createdAt": datetime.now(UTC),
                }
                for taught in elder.answers
            )


def train_all(
    settings: Settings, sender: Sender, elders: Sequence[Elder], on_event: OnEvent
) -> dict[str, dict[str, Any]]:
    """Announce the answers, ask for trainings, and return each elder's `model-ready`.

    `on_event` gets the topic and the data of each event. Raises TrainingFailed or TimeoutError.
    """
    topics = [DATASET_READY.name, TRAIN_PROGRESS.name, MODEL_READY.name]
    ready: dict[str, dict[str, Any]] = {}
    with Follower(settings, topics) as follower:
        for elder in elders:
            who, name = elder.elder_id, elder.elder_name
            sender.send(
                sender.events.answers_updated(
                    AnswersUpdated(elder_id=who, elder_name=name), event_id=new_id()
                ),
                sender.events.train_requested(
                    TrainRequested(elder_id=who, elder_name=name), event_id=new_id()
                ),
            )
        for incoming in follower.until(lambda _: len(ready) == len(elders), _TRAIN_LIMIT_S):
            if incoming is None:
                continue
            on_event(incoming.topic, incoming.data)
            if incoming.data.get("status") in ("failed", "cancelled"):
                raise TrainingFailed(f"{incoming.data['job_id']}: {incoming.data['error']}")
            if incoming.topic == MODEL_READY.name:
                ready[incoming.data["elder_id"]] = incoming.data
                if len(ready) == len(elders):
                    break
    return ready


def ask_all(
    settings: Settings, sender: Sender, elders: Sequence[Elder], on_asked: Callable[[Asked], None]
) -> list[Asked]:
    """Ask every question through Kafka and judge what comes back; raises TimeoutError."""
    waiting: dict[bytes, tuple[str, Question]] = {}
    asked: dict[bytes, Asked] = {}
    with Follower(
        settings, [CHAT_REPLIES.name], fetch_wait_ms=settings.kafka.chat_fetch_wait_ms
    ) as follower:
        # One elder after the other, since the host takes time to change between personas.
        for elder in elders:
            for question in elder.questions:
                correlation = new_id().encode()
                waiting[correlation] = (elder.elder_id, question)
                request = ChatRequest(
                    elder_id=elder.elder_id, message=question.text, options=_OPTIONS
                )
                event = sender.events.chat_requested(request, event_id=new_id())
                sender.send(with_correlation(event, correlation))
        end = time.monotonic() + _CHAT_LIMIT_S
        while len(asked) < len(waiting):
            incoming = follower.read(0.5)
            if time.monotonic() > end:
                raise TimeoutError(f"{len(waiting) - len(asked)} questions got no reply")
            key = incoming.correlation_id if incoming else None
            if incoming is None or key is None or key not in waiting or key in asked:
                continue
            elder_id, question = waiting[key]
            reply = incoming.data["reply"]
            failed = incoming.data["error"] is not None
            asked[key] = Asked(
                elder_id=elder_id,
                question=question,
                reply=reply or str(incoming.data["error"]),
                right=not failed and question.is_right(reply),
            )
            on_asked(asked[key])
    return [asked[key] for key in waiting]
