"""Durable intake of `train-requested` from broker to ledger: records a second of one process.

    python -m bench.ledger [--repeats 5] [--records 10000] [--kafka apache] [--json]

The service's own poll loop, lane, dispatcher, handler and ledger alternate with a bare loop of
`consume(500)` and `insert_many` of the same documents. Both have the same write concern and
indexes, and a group and a database of their own. The time begins with the first assignment, since
joining a group takes as long for both, and ends when every record is stored and its offset is
committed. "Without a store" leaves MongoDB out and shows the service's own share; measured in
processor time (all threads of the process), that figure is steadier on a shared machine. Ratios
are of each repeat's pair: 1 means as fast as the bare loop, 2 twice as slow.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast
from uuid import uuid4

import bson
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from bench.backlog import SOURCE, Offsets, elder, every, send_training
from bench.servers import PARTITIONS, add_options, open_servers, settings_for
from bench.table import show
from config.metrics import Metrics
from config.settings import Settings
from consumers.app import INGEST_BATCH, TRAINING_LIMIT, utc_now
from consumers.handlers.training import TrainingHandler
from consumers.kafka.dispatch import Dispatcher
from consumers.kafka.lanes import Done, Executor, Lanes, Work
from consumers.kafka.loop import ConsumerLoop
from consumers.kafka.offsets import Ticket
from consumers.operations.topics import apply_topics
from pipeline.ledger.acceptance import job_document
from pipeline.ledger.events import Announcer
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.new_job import NewJob
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import JOBS, Document, Store, open_client
from producers.publisher import KafkaPublisher
from schemas.topics import TRAIN_REQUESTED

BARE_BATCH = 500
LIMIT_S = 300.0


class Counted:
    """An executor that signals when a number of records are done."""

    def __init__(self, inner: Executor, count: int) -> None:
        self._inner = inner
        self._left = count
        self.all_done = threading.Event()

    def start(self, done: Done) -> None:
        """Start the inner executor, counting what it reports as done."""

        def counted(ticket: Ticket) -> None:
            done(ticket)
            self._left -= 1
            if self._left == 0:
                self.all_done.set()

        self._inner.start(counted)

    def submit(self, work: Work) -> None:
        """Pass a record on."""
        self._inner.submit(work)

    def stop(self, limit_s: float) -> bool:
        """Stop the inner executor."""
        return self._inner.stop(limit_s)

    @property
    def threads(self) -> list[threading.Thread]:
        """The inner executor's threads."""
        return self._inner.threads


def ledger_of(settings: Settings, store: Store) -> Ledger:
    """Build the ledger as the service does."""
    announcer = Announcer(utc_now, settings.language)
    return Ledger(store, announcer, lease_s=30, fair_s=settings.worker.fair_s)


@contextmanager
def polling(loop: ConsumerLoop, stop: threading.Event) -> Iterator[None]:
    """Run a loop in a thread until the context ends; it then commits its last offsets."""
    thread = threading.Thread(target=lambda: loop.run(stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def run_service(settings: Settings, store: Store, count: int) -> tuple[float, float]:
    """Return the service's records a second, by the clock and by processor time."""
    metrics, stop = Metrics(), threading.Event()
    ledger = ledger_of(settings, store)
    with KafkaPublisher(settings.kafka, metrics) as publisher:
        dispatcher = Dispatcher(
            TRAIN_REQUESTED.name,
            settings.kafka.group("training"),
            TrainingHandler(ledger, settings.training(), lambda: None),
            publisher.confirm,
            metrics,
            stop,
            max_bytes=settings.max_message_bytes,
        )
        executor = Counted(Lanes("training", dispatcher.process, batch=INGEST_BATCH), count)
        loop = ConsumerLoop(
            "training",
            [settings.topic(TRAIN_REQUESTED.name)],
            settings.kafka,
            executor,
            metrics,
            limit=TRAINING_LIMIT,
        )
        with polling(loop, stop):
            for _ in every(0.001, LIMIT_S, "the loop has its partitions"):
                if loop.assigned:
                    break
            begun, own = time.perf_counter(), time.process_time()
            assert executor.all_done.wait(LIMIT_S), "the records did not come"
        return count / (time.perf_counter() - begun), count / (time.process_time() - own)


def bare_documents(settings: Settings, count: int) -> list[Document]:
    """Build, beforehand, the documents that the service would store."""
    announcer = Announcer(utc_now, settings.language)
    now = utc_now()
    return [job_document(request(number), 1, now, announcer) for number in range(count)]


def request(number: int) -> NewJob:
    """Return a request like those in the topic."""
    return NewJob(
        request_source=SOURCE,
        request_id=f"{TRAIN_REQUESTED.name}-{number}",
        requested_at=utc_now(),
        elder_id=elder(number, 50),
        elder_name="李秀梅",
        force_retrain=False,
        job_id=f"{elder(number, 50)}_{1767225600 + number}",
        base_model=None,
        overrides={},
        traceparent=None,
        queue_order=number,
    )


def run_bare(settings: Settings, store: Store, count: int, *, ordered: bool) -> tuple[float, float]:
    """Return the bare loop's records a second, by the clock and by processor time."""
    documents = bare_documents(settings, count)
    assigned: list[TopicPartition] = []
    consumer = Consumer(settings.kafka.consumer("training"))
    consumer.subscribe(
        [settings.topic(TRAIN_REQUESTED.name)], on_assign=lambda _, found: assigned.extend(found)
    )
    messages: list[Message] = []
    # `poll` and `consume` wait by themselves, so the loops around them need no pause.
    for _ in every(0, LIMIT_S, "the bare loop has its partitions"):
        messages = [m for m in [consumer.poll(0.001)] if m is not None]
        if assigned:
            break
    begun, own = time.perf_counter(), time.process_time()
    taken = 0
    for _ in every(0, LIMIT_S, "the bare loop has taken all records"):
        messages += consumer.consume(BARE_BATCH, 0.1)
        if refused := [m.error() for m in messages if m.error() is not None]:
            raise KafkaException(refused[0])
        if messages:
            store[JOBS].insert_many(documents[taken : taken + len(messages)], ordered=ordered)
            taken += len(messages)
            consumer.commit(offsets=consumer.position(assigned), asynchronous=True)
            messages = []
        if taken >= count:
            break
    consumer.commit(offsets=consumer.position(assigned), asynchronous=False)
    rates = count / (time.perf_counter() - begun), count / (time.process_time() - own)
    consumer.close()
    return rates


class Weightless:
    """A store that accepts everything at once and keeps nothing, so the service's share is left."""

    def __getitem__(self, name: str) -> "Weightless":
        return self

    def get_collection(self, name: str, **concerns: object) -> "Weightless":
        """Return itself, whatever the collection."""
        return self

    def command(self, name: str) -> Document:
        """Return the time, as a server does."""
        return {"localTime": utc_now()}

    def insert_many(self, documents: list[Document], *, ordered: bool) -> None:
        """Encode them, as the driver does."""
        for document in documents:
            bson.encode(document)


def run_alone(settings: Settings, store: Store, count: int) -> tuple[float, float]:
    """Return the service's records a second without a store."""
    return run_service(settings, cast("Store", Weightless()), count)


SERVICE, ALONE = "the service", "the service without a store"
OWN = "the same, a second of its own processor time"
BARE, BARE_ANY_ORDER = "bare loop, ordered", "bare loop, unordered"
WAYS: dict[str, Callable[[Settings, Store, int], tuple[float, float]]] = {
    SERVICE: run_service,
    ALONE: run_alone,
    BARE: partial(run_bare, ordered=True),
    BARE_ANY_ORDER: partial(run_bare, ordered=False),
}


def measure_one(way: str, settings: Settings, count: int) -> tuple[float, float]:
    """Run one way over the topic, with its own group and database, and verify the result."""
    name = f"b{uuid4().hex[:8]}"
    kafka = settings.kafka.model_copy(update={"group_prefix": name})
    mongodb = settings.mongodb.model_copy(update={"database": name})
    own = settings.model_copy(update={"kafka": kafka, "mongodb": mongodb})
    client = open_client(mongodb)
    store = client[name]
    ensure_indexes(store, 1)
    rates = WAYS[way](own, store, count)
    if way != ALONE:
        assert store[JOBS].count_documents({}) == count, "not every record is a job"
    offsets = Offsets(own, "training", TRAIN_REQUESTED.name)
    assert offsets.committed() == count, "not every offset is committed"
    offsets.close()
    client.drop_database(name)
    client.close()
    return rates


def measure(settings: Settings, count: int, repeats: int) -> dict[str, list[float]]:
    """Return records a second of each way; the ways alternate in going first."""
    samples: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(repeats):
        for way in list(WAYS) if number % 2 else reversed(WAYS):
            rate, own_rate = measure_one(way, settings, count)
            samples[way].append(rate)
            if way == ALONE:
                samples.setdefault(OWN, []).append(own_rate)
    return samples


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, repeats=5)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--elders", type=int, default=50)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        open_servers(Path(name), arguments.kafka) as servers,
    ):
        settings = settings_for(servers, Path(name))
        apply_topics(settings, PARTITIONS, [TRAIN_REQUESTED])
        send_training(settings, arguments.records, arguments.elders)
        samples = measure(settings, arguments.records, arguments.repeats)
        title = f"Records a second into the ledger ({arguments.records:,}; {servers.broker})"
        show(title, samples, as_json=arguments.json)
        ratios = {
            f"{way} / the service": [
                bare / ours for bare, ours in zip(samples[way], samples[SERVICE], strict=True)
            ]
            for way in (BARE, BARE_ANY_ORDER)
        }
        show("How many times slower than the bare loop (target 2)", ratios, as_json=arguments.json)


if __name__ == "__main__":
    main()
