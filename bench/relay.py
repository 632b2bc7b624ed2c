"""Relaying the ledger's outbox to the broker and marking it published: events a second.

    python -m bench.relay [--repeats 3] [--jobs 3000] [--per-job 3] [--kafka embedded] [--json]

The outbox holds jobs with waiting events, as after an outage of Kafka: with `--per-job 3` those of
an ended job (queued, succeeded, model-ready), with `--per-job 1` those of a job just accepted. The
real outbox, relay and publisher empty it. They alternate with a bare loop that sends the same
records with `produce` and `flush`, then updates each job once, in `bulk_write`s of 1,000.
"Without a store" is the relay over documents in memory, which shows the relay's own share. The
last rows are the parts of the bare loop. Rows are events a second, except that of the updates,
which are one a job. On a shared machine the row by processor time (all threads of the process) is
the steady one.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

from confluent_kafka import Producer
from pymongo import UpdateOne

from bench.ledger import request
from bench.servers import PARTITIONS, add_options, open_servers, settings_for
from bench.table import show
from config.metrics import Metrics
from config.settings import Settings
from consumers.app import SOURCE, utc_now
from consumers.operations.topics import apply_topics
from pipeline.ledger.acceptance import job_document
from pipeline.ledger.events import Announcer
from pipeline.ledger.outbox import Outbox, Waiting
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import JOBS, Document, Store, open_client
from pipeline.storage.named_lease import NamedLease
from producers.events import Events
from producers.publisher import KafkaPublisher, Publication
from producers.relay import Relay
from schemas.documents import Job
from schemas.events import ModelReady
from schemas.topics import MODEL_READY, TRAIN_PROGRESS

BARE_BATCH = 1000
RELAY, WEIGHTLESS, BARE = "the relay", "the relay without a store", "bare loop"
OWN = "the same, a second of its own processor time"
BARE_SEND, BARE_MARK = "bare loop: produce and flush", "bare loop: updates"
BARE_READ = "bare loop: find and sort, once"


class InMemory(Outbox):
    """The real outbox over documents that were read beforehand."""

    def __init__(self, store: Store, documents: list[Document]) -> None:
        super().__init__(store, SOURCE)
        self._documents = documents

    def waiting(self, limit: int, skip: int = 0) -> list[Waiting]:
        """Return the next jobs, as the outbox does after reading them."""
        batch, self._documents = self._documents[:limit], self._documents[limit:]
        return [self._waiting(document) for document in batch]

    def mark_published(self, published: list[Waiting]) -> None:
        """Do nothing: `waiting` has removed them already."""


def fill(store: Store, settings: Settings, jobs: int, per_job: int) -> list[Document]:
    """Store jobs with waiting events and return them."""
    announcer = Announcer(utc_now, settings.language)
    now = utc_now()
    documents = [job_document(request(number), 1, now, announcer) for number in range(jobs)]
    if per_job > 1:
        documents = [_ended(document, announcer, per_job) for document in documents]
    for begin in range(0, jobs, BARE_BATCH):
        store[JOBS].insert_many(documents[begin : begin + BARE_BATCH])
    return list(store[JOBS].find({}))


def _ended(document: Document, announcer: Announcer, per_job: int) -> Document:
    job = Job.model_validate(document).model_copy(update={"status": "succeeded", "progress": 100})
    ready = ModelReady(
        job_id=job.id,
        elder_id=job.elder_id,
        model=f"afs_elder_{job.elder_id}",
        version=1,
        tag=f"afs_elder_{job.elder_id}:v1",
        base_model="b",
        method="lora",
        dataset_sha256="0" * 64,
        adapter_sha256="0" * 64,
        evaluation=None,
        reused=False,
        previous_version=None,
    )
    later = [announcer.progress(job, sequence=2), announcer.model_ready(ready, sequence=3)]
    events = [event.model_dump() for event in later[: per_job - 1]]
    return document | {
        "status": "succeeded",
        "sequence": per_job,
        "outbox": document["outbox"] + events,
    }


def run_relay(settings: Settings, store: Store, outbox: Outbox) -> tuple[float, float]:
    """Return the relay's events a second under its lease, by the clock and by processor time."""
    events = Events(SOURCE, settings.topic, utc_now)
    lease = NamedLease(store, "relay", "bench", lease_s=30)
    lease.acquire()
    with KafkaPublisher(settings.kafka, Metrics()) as publisher:
        publisher.confirm([warm_up(settings)])
        deliver = partial(publisher.deliver, may_go_on=lease.renew)
        relay = Relay(outbox, events.stored, deliver, lease.is_held)
        begun, own, sent = time.perf_counter(), time.process_time(), 0
        while lease.acquire() and (batch := relay.run_once()):
            sent += batch
        seconds, own = time.perf_counter() - begun, time.process_time() - own
        return sent / seconds, sent / own


def run_bare(settings: Settings, store: Store, documents: list[Document]) -> dict[str, float]:
    """Return the seconds of each part of the bare loop; its records are encoded beforehand."""
    publications = encoded(settings, store, documents)
    producer = Producer(settings.kafka.producer())
    first = warm_up(settings)
    producer.produce(first.topic, key=first.key, value=first.value)
    assert producer.flush(60) == 0
    begun = time.perf_counter()
    for one in publications:
        producer.produce(one.topic, key=one.key, value=one.value, headers=list(one.headers))
        producer.poll(0)
    assert producer.flush(60) == 0
    sent = time.perf_counter()
    store[JOBS].find({"has_pending": True}).sort("pending_since", 1).to_list()
    read = time.perf_counter()
    done = {"$set": {"has_pending": False, "outbox": [], "latest": None}}
    for begin in range(0, len(documents), BARE_BATCH):
        ids = [d["_id"] for d in documents[begin : begin + BARE_BATCH]]
        store[JOBS].bulk_write([UpdateOne({"_id": i}, done) for i in ids])
    return {
        BARE_SEND: sent - begun,
        BARE_READ: read - sent,
        BARE_MARK: time.perf_counter() - read,
    }


def warm_up(settings: Settings) -> Publication:
    """Return a record to send first, so that the producer is connected."""
    topic = settings.topic(TRAIN_PROGRESS.name)
    return Publication(topic=topic, key=b"x", value=b"{}", headers=())


def encoded(settings: Settings, store: Store, documents: list[Document]) -> list[Publication]:
    """Return the records of these jobs' events."""
    events = Events(SOURCE, settings.topic, utc_now)
    waiting = InMemory(store, documents).waiting(len(documents))
    return [events.stored(event) for job in waiting for event in job.events]


def measure_one(way: str, settings: Settings, jobs: int, per_job: int) -> dict[str, float]:
    """Fill a fresh database, empty its outbox in one way, and return rates by row."""
    name = f"b{uuid4().hex[:8]}"
    client = open_client(settings.mongodb)
    store = client[name]
    ensure_indexes(store, 1)
    documents = fill(store, settings, jobs, per_job)
    try:
        if way == BARE:
            seconds = run_bare(settings, store, documents)
            events = jobs * per_job
            rates = {part: events / seconds[part] for part in (BARE_SEND, BARE_READ)}
            rates[BARE_MARK] = jobs / seconds[BARE_MARK]
            return {BARE: events / sum(seconds.values())} | rates
        if way == WEIGHTLESS:
            rate, own_rate = run_relay(settings, store, InMemory(store, documents))
            return {way: rate, OWN: own_rate}
        rate, _ = run_relay(settings, store, Outbox(store, SOURCE))
        assert store[JOBS].count_documents({"has_pending": True}) == 0, "not all were marked"
        return {way: rate}
    finally:
        client.drop_database(name)
        client.close()


def measure(settings: Settings, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the rates of each row; the ways alternate in going first."""
    samples: dict[str, list[float]] = {}
    ways: Sequence[str] = (RELAY, WEIGHTLESS, BARE)
    for number in range(arguments.repeats):
        for way in ways if number % 2 == 0 else reversed(ways):
            for row, rate in measure_one(way, settings, arguments.jobs, arguments.per_job).items():
                samples.setdefault(row, []).append(rate)
    return samples


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, repeats=3)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--per-job", type=int, choices=(1, 2, 3), default=3)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        open_servers(Path(name), arguments.kafka) as servers,
    ):
        settings = settings_for(servers, Path(name))
        apply_topics(settings, PARTITIONS, [TRAIN_PROGRESS, MODEL_READY])
        samples = measure(settings, arguments)
        events = arguments.jobs * arguments.per_job
        title = f"Events a second ({arguments.jobs:,} jobs, {events:,} events; {servers.broker})"
        show(title, samples, as_json=arguments.json)
        ratio = [b / r for b, r in zip(samples[BARE], samples[RELAY], strict=True)]
        show("How many times slower than the bare loop", {"": ratio}, as_json=arguments.json)


if __name__ == "__main__":
    main()
