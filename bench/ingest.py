"""Handling one `answers-updated` of an elder with many answers: read, clean, write, publish.

    python -m bench.ingest [--repeats 7] [--json]

Time is paired with that of a bare loop, which reads the same documents and writes them as JSON
lines; the two alternate. Memory is the peak resident set of a fresh process, for 1,000 and for
100,000 answers: it is flat if the second needs hardly more.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.table import show
from config.metrics import Metrics
from config.settings import Settings, load_settings
from consumers.app import App
from consumers.handlers.answers import AnswersHandler
from consumers.kafka.dispatch import Received
from consumers.operations.topics import apply_topics
from embedded.kafka import CHAT_FETCH_WAIT_MS, SESSION_TIMEOUT_MS
from embedded.stack import EmbeddedStack, StackAddresses
from schemas.envelope import open_envelope
from schemas.record import Record
from schemas.topics import ANSWERS_UPDATED

SIZES = {"LXM1000": 1_000, "LXM100000": 100_000}


def documents(elder_id: str, count: int) -> list[dict[str, Any]]:
    """Invent answers of the usual length."""
    return [
        {
            "elderId": elder_id,
            "question": f"第{n}个问题：那一年您在哪里做工？",
            "answer": f"第{n}年我在绍兴城外的丝厂做工，每天走{n % 9 + 1}里路，中午吃霉干菜。",
            "createdAt": datetime.now(UTC),
        }
        for n in range(count)
    ]


def settings_for(addresses: StackAddresses, folder: Path) -> Settings:
    """Return settings for the embedded servers."""
    return load_settings(
        {
            "kafka": {
                "bootstrap_servers": addresses.kafka_bootstrap_servers,
                "session_timeout_ms": SESSION_TIMEOUT_MS,
                "chat_fetch_wait_ms": CHAT_FETCH_WAIT_MS,
            },
            "mongodb": {"uri": addresses.mongodb_uri},
            "ollama": {"host": addresses.ollama_host},
            "current_model": "gemma3-270m",
            "data_dir": str(folder),
        }
    )


def handler_of(app: App) -> AnswersHandler:
    """Build the handler as the service does."""
    return AnswersHandler(
        app.answers,
        app.datasets,
        app.dataset_registry,
        app.events,
        app.publisher.confirm,
        Metrics(),
        "gemma3-270m",
        lambda: datetime.now(UTC),
    )


def received(elder_id: str) -> Received:
    """Return an `answers-updated` as received from Kafka."""
    value = json.dumps({"elder_id": elder_id, "elder_name": "李秀梅"}).encode()
    record = Record(
        topic=ANSWERS_UPDATED.name, partition=0, offset=0, key=elder_id.encode(), value=value
    )
    return Received(record=record, envelope=open_envelope(record, ANSWERS_UPDATED.name, 2**20))


def bare_loop(app: App, elder_id: str, folder: Path) -> None:
    """Read the same documents and write them, and do nothing else."""
    with (folder / "bare.jsonl").open("w", encoding="utf-8") as lines:
        for document in app.store["answers"].find({"elderId": elder_id}).sort("_id", 1):
            row = {"q": document["question"], "a": document["answer"]}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure_time(app: App, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of handler and bare loop, which alternate."""
    handler, event = handler_of(app), received("LXM1000")
    samples: dict[str, list[float]] = {"answers-updated, 1,000 answers": [], "bare loop": []}
    for _ in range(repeats):
        begun = time.perf_counter()
        refused = handler.handle([event])
        samples["answers-updated, 1,000 answers"].append(time.perf_counter() - begun)
        assert not refused, refused
        begun = time.perf_counter()
        bare_loop(app, "LXM1000", folder)
        samples["bare loop"].append(time.perf_counter() - begun)
    return samples


def peak_mib(addresses: StackAddresses, elder_id: str) -> float:
    """Return the peak memory, in MiB, of a fresh process that handles one event."""
    argv = [sys.executable, "-m", "bench.ingest", "--alone", elder_id]
    environment = addresses.model_dump_json()
    done = subprocess.run([*argv, environment], check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def handle_alone(elder_id: str, addresses: StackAddresses) -> None:
    """Handle one event and print this process's peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        app = App(settings_for(addresses, Path(folder)))
        with app.publisher:
            assert not handler_of(app).handle([received(elder_id)])
        app.close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        handle_alone(arguments.alone[0], StackAddresses.model_validate_json(arguments.alone[1]))
        return
    with tempfile.TemporaryDirectory() as name, EmbeddedStack(Path(name)) as addresses:
        app = App(settings_for(addresses, Path(name) / "data"))
        apply_topics(app.settings)
        answers = app.store["answers"]
        answers.create_index([("elderId", 1), ("_id", 1)])
        for elder_id, count in SIZES.items():
            answers.insert_many(documents(elder_id, count))
        with app.publisher:
            times = measure_time(app, Path(name), arguments.repeats)
        app.close()
        show("Seconds", times, as_json=arguments.json)
        memory = {f"{n:,} answers": [peak_mib(addresses, e)] for e, n in SIZES.items()}
        show("Peak memory of the process, MiB", memory, as_json=arguments.json)


if __name__ == "__main__":
    main()
