"""The time that the chat consumer adds to Ollama's own.

    python -m bench.chat [--repeats 60] [--json]

Each question is asked in two ways, which alternate in going first: directly of Ollama, with the
same messages and options, and through Kafka (`chat-requests` to `chat-replies`). The consumer's
time runs from the receipt of a request until the broker has confirmed the reply. What it exceeds
the direct question by, in each pair, is what the consumer adds (MongoDB included). Replies are
short, so that the model's own variation stays small.
"""

import argparse
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import ollama

from bench.ingest import settings_for
from bench.table import show
from config.metrics import Metrics
from consumers.app import App
from consumers.client import Follower, new_id, with_correlation
from consumers.operations.topics import apply_topics
from embedded.bases import install_base
from embedded.session import model_dir
from embedded.stack import EmbeddedStack
from pipeline.hosting.port import ServedModel
from pipeline.storage.indexes import ensure_indexes
from pipeline.text.chat_format import chat_format
from schemas.documents import Job
from schemas.events import ChatOptions, ChatRequest
from schemas.topics import CHAT_REPLIES
from terminal.wiring import open_sender

BASE = "smollm2-135m-instruct"
ELDER = "LXM19580312F"
OPTIONS = ChatOptions(max_tokens=4)
WARM_UP = 5


def install_model(app: App) -> str:
    """Register a model for the elder, without an adapter, and return its tag."""
    gguf = install_base(BASE, model_dir())
    form = chat_format("chatml")
    now = datetime.now(UTC)
    job = Job(
        id=f"{ELDER}_1",
        request_source="bench",
        request_id="1",
        elder_id=ELDER,
        elder_name="李秀梅",
        force_retrain=False,
        base_model=BASE,
        overrides={},
        status="running",
        sequence=1,
        attempt=1,
        fence=1,
        queued_at=now,
    )
    made_of = {
        "base_model": BASE,
        "method": "lora",
        "recipe_sha256": "0" * 64,
        "dataset_sha256": "0" * 64,
    }
    version = app.registry.open_version(job, made_of, now)
    app.host.ensure_base("bench-base", gguf)
    app.host.create(
        version.tag,
        ServedModel(
            form="plain",
            base="bench-base",
            system="You are Li Xiumei.",
            template=form.ollama_template,
            stop=form.stop,
        ),
    )
    app.registry.release(ELDER, version)
    return version.tag


class ConsumerClock:
    """Reads from the consumer's own metric how long it took for each request."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry
        self._seen = (0.0, 0.0)

    def last_ms(self) -> float:
        """Wait until the latest request is counted, and return its duration in milliseconds."""
        seconds, count = self._seen
        while (now := (self._read("sum"), self._read("count")))[1] == count:
            time.sleep(0.0005)
        self._seen = now
        return (now[0] - seconds) / (now[1] - count) * 1000

    def _read(self, part: str) -> float:
        name = f"modelserver_chat_duration_seconds_{part}"
        return self._registry.get_sample_value(name, {"outcome": "answered"}) or 0.0


def measure(app: App, clock: ConsumerClock, tag: str, repeats: int) -> dict[str, list[float]]:
    """Return milliseconds for each way; the ways alternate."""
    client = ollama.Client(host=app.settings.ollama.host)
    options = {"temperature": 0.0, "num_predict": 4, "num_ctx": app.settings.chat.num_ctx}
    direct: list[float] = []
    through: list[float] = []
    in_consumer: list[float] = []
    with (
        Follower(
            app.settings, [CHAT_REPLIES.name], fetch_wait_ms=app.settings.kafka.chat_fetch_wait_ms
        ) as follower,
        open_sender(app) as sender,
    ):

        def ask_directly(question: str) -> float:
            begun = time.perf_counter()
            client.chat(tag, [{"role": "user", "content": question}], options=options)
            return (time.perf_counter() - begun) * 1000

        def ask_through_kafka(question: str) -> float:
            correlation = new_id().encode()
            request = ChatRequest(elder_id=ELDER, message=question, options=OPTIONS)
            event = sender.events.chat_requested(request, event_id=new_id())
            begun = time.perf_counter()
            sender.send(with_correlation(event, correlation))
            for incoming in follower.until(lambda e: e.correlation_id == correlation, 60):
                if incoming is not None:
                    assert incoming.data["error"] is None, incoming.data
            return (time.perf_counter() - begun) * 1000

        ways = [(ask_directly, direct), (ask_through_kafka, through)]
        for number in range(-WARM_UP, repeats):
            question = f"Question {number}: where did you work?"
            ask_directly(question)  # So that the host has cached the prompt for both ways.
            for ask, into in ways if number % 2 else reversed(ways):
                milliseconds = ask(question)
                consumer_ms = clock.last_ms() if ask is ask_through_kafka else None
                if number >= 0:
                    into.append(milliseconds)
                    in_consumer += [] if consumer_ms is None else [consumer_ms]
    return {
        "straight from Ollama": direct,
        "in the consumer": in_consumer,
        "through Kafka": through,
        "added by the consumer (paired)": [c - d for c, d in zip(in_consumer, direct, strict=True)],
        "added with both ways through Kafka (paired)": [
            t - d for t, d in zip(through, direct, strict=True)
        ],
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, EmbeddedStack(Path(name)) as addresses:
        settings = settings_for(addresses, Path(name) / "data")
        free = settings.ops.model_copy(update={"port": 0})
        app = App(settings.model_copy(update={"ops": free}))
        apply_topics(app.settings)
        ensure_indexes(app.store, app.settings.chat.dedup_hours)
        stop = threading.Event()
        service = App(app.settings)
        running = threading.Thread(target=lambda: service.run(["chat"], stop))
        running.start()
        try:
            tag = install_model(app)
            samples = measure(app, ConsumerClock(service.metrics), tag, arguments.repeats)
        finally:
            stop.set()
            running.join()
            app.close()
        show("Milliseconds a question", samples, as_json=arguments.json)


if __name__ == "__main__":
    main()
