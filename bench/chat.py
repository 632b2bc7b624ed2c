"""What the chat consumer adds to Ollama's own time.

    python -m bench.chat [--repeats 60] [--json]

Each question is asked twice, in turns in one run: straight from Ollama with the same messages and
options, and through Kafka (`chat-requests` to `chat-replies`). The difference of each pair is what
Kafka, the consumer and MongoDB add. Replies are short, so that the model's own spread stays small.
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
from consumers.app import App
from consumers.cli.wiring import open_sender
from consumers.client import Follower, new_id, with_correlation
from consumers.embedded.bases import install_base
from consumers.embedded.session import model_dir
from consumers.embedded.stack import EmbeddedStack
from consumers.topics import apply_topics
from pipeline.chat_format import chat_format
from pipeline.model_host import ModelRecipe
from schemas.documents import Job
from schemas.events import ChatOptions, ChatRequest
from schemas.topics import CHAT_REPLIES

BASE = "smollm2-135m-instruct"
ELDER = "LXM19580312F"
OPTIONS = ChatOptions(max_tokens=4)


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
        ModelRecipe(
            base="bench-base",
            adapter=None,
            system="You are Li Xiumei.",
            template=form.ollama_template,
            stop=form.stop,
        ),
    )
    app.registry.release(ELDER, version)
    return version.tag


def measure(app: App, tag: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds, in turns."""
    client = ollama.Client(host=app.settings.ollama.host)
    options = {"temperature": 0.0, "num_predict": 4, "num_ctx": app.settings.chat.num_ctx}
    direct: list[float] = []
    through: list[float] = []
    with Follower(app.settings, [CHAT_REPLIES.name]) as follower, open_sender(app) as sender:
        for number in range(repeats + 5):
            question = f"Question {number}: where did you work?"
            begun = time.perf_counter()
            client.chat(tag, [{"role": "user", "content": question}], options=options)
            asked_directly = time.perf_counter() - begun
            correlation = new_id().encode()
            request = ChatRequest(elder_id=ELDER, message=question, options=OPTIONS)
            event = sender.events.chat_requested(request, event_id=new_id())
            begun = time.perf_counter()
            sender.send(with_correlation(event, correlation))
            for incoming in follower.until(lambda e, c=correlation: e.correlation_id == c, 60):
                if incoming is not None:
                    assert incoming.data["error"] is None, incoming.data
            if number >= 5:  # the first few warm the caches of both ways
                direct.append(asked_directly * 1000)
                through.append((time.perf_counter() - begun) * 1000)
    added = [t - d for t, d in zip(through, direct, strict=True)]
    return {"straight from Ollama": direct, "through Kafka": through, "added (paired)": added}


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
        stop = threading.Event()
        service = App(app.settings)
        running = threading.Thread(target=lambda: service.run(["chat"], stop))
        running.start()
        try:
            tag = install_model(app)
            samples = measure(app, tag, arguments.repeats)
        finally:
            stop.set()
            running.join()
            app.close()
        show("Milliseconds a question", samples, as_json=arguments.json)


if __name__ == "__main__":
    main()
