"""The checker: decides the invariant from Kafka, MongoDB, Ollama and the disk alone.

It knows what was sent (the driver's operations) and nothing of how the service works. What the
broker has must be dealt with once; what the driver does not know of may be there or not.
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import ollama
from confluent_kafka import Consumer, KafkaException, TopicPartition

from config.settings import Settings
from consumers.embedded.stack import StackAddresses
from consumers.loop import to_record
from consumers.topics import broker_name
from pipeline.store import Store
from schemas.base import Frozen
from schemas.record import Record
from schemas.topics import CATALOGUE, all_topics
from tests.chaos.workload import SOURCE, Elder, Operation

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
LIMIT_S = 30.0
_PAUSE_S = 0.5
_ROLES = {
    "answers-updated": "answers",
    "train-requested": "training",
    "chat-requests": "chat",
    "model-commands": "models",
}


class Verdict(Frozen):
    """What is wrong, in sentences; nothing at all in a good run."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """All that is wrong."""
        return (*self.lost, *self.doubled, *self.mixed, *self.other)


class Evidence:
    """What a session leaves behind, and how to look at it."""

    def __init__(self, servers: StackAddresses, settings: Settings, store: Store) -> None:
        self.servers = servers
        self.settings = settings
        self.store = store
        self._records: dict[str, list[Record]] = defaultdict(list)
        self._consumer: Consumer | None = None

    def records(self, topic: str) -> list[Record]:
        """The records of a topic of the catalogue that were read."""
        return self._records[self._broker_name(topic)]

    def uncommitted(self) -> list[str]:
        """Partitions of inbound topics whose committed offset is not their end.

        A broker that is away or was just followed by another is asked again for a while.
        """
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                return list(self._ask_for_uncommitted())
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)

    def _ask_for_uncommitted(self) -> Iterable[str]:
        for topic, role in _ROLES.items():
            group = {"group.id": self.settings.kafka.group(role)}
            with closing(Consumer(self.settings.kafka.client() | group)) as asking:
                name = self._broker_name(topic)
                partitions = asking.list_topics(name, timeout=LIMIT_S).topics[name].partitions
                asked = [TopicPartition(name, p) for p in partitions]
                for position in asking.committed(asked, timeout=LIMIT_S):
                    # The embedded broker tells an end that counts one record of its last batch.
                    _, end = asking.get_watermark_offsets(position, timeout=LIMIT_S)
                    if max(position.offset, 0) < end:
                        yield f"{topic}/{position.partition}: {position.offset} of {end}"

    def close(self) -> None:
        """Hang up."""
        if self._consumer is not None:
            self._consumer.close()

    def _broker_name(self, topic: str) -> str:
        return next(broker_name(self.settings, t) for t in all_topics() if t.name == topic)

    def read(self) -> None:
        """Take in what is there by now."""
        if self._consumer is None:
            self._consumer = self._open()
        while (message := self._consumer.poll(0.3)) is not None:
            if message.error() is None:
                record = to_record(message)
                self._records[record.topic].append(record)

    def _open(self) -> Consumer:
        consumer = Consumer(
            self.settings.kafka.client()
            | {
                "group.id": f"{self.settings.kafka.group_prefix}-checker",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            }
        )
        inbound = {t.name for t in CATALOGUE if t.direction == "in"}
        names = [broker_name(self.settings, t) for t in all_topics() if t.name not in inbound]
        known = consumer.list_topics(timeout=LIMIT_S).topics
        consumer.assign([TopicPartition(n, p, 0) for n in names for p in known[n].partitions])
        return consumer


class Case:
    """One run: its elders, what was sent, and what of the evidence is theirs."""

    def __init__(
        self, evidence: Evidence, elders: tuple[Elder, ...], operations: list[Operation]
    ) -> None:
        self.evidence = evidence
        self.elders = elders
        self.operations = operations
        self._ids = [elder.id for elder in elders]
        self._keys = {elder.id.encode() for elder in elders}

    def sent(self, topic: str, *, valid: bool = True) -> set[str]:
        """The ids that the broker has for certain."""
        return {
            o.event_id
            for o in self.operations
            if o.topic == topic and o.valid == valid and o.outcome == "ok"
        }

    def records(self, topic: str) -> list[Record]:
        """The records of a topic of the catalogue about these elders, until now."""
        return [r for r in self.evidence.records(topic) if r.key in self._keys]

    def jobs(self) -> list[dict[str, Any]]:
        """The ledger's jobs of these elders."""
        return list(self.evidence.store["jobs"].find({"elder_id": {"$in": self._ids}}))

    def models(self) -> list[dict[str, Any]]:
        """The registry's models of these elders."""
        return list(self.evidence.store["models"].find({"_id": {"$in": self._ids}}))


def is_settled(case: Case) -> bool:
    """Say whether nothing is under way any more."""
    case.evidence.read()
    jobs = case.jobs()
    if {job["request_id"] for job in jobs} < case.sent("train-requested"):
        return False
    if any(job["status"] not in TERMINAL or job["has_pending"] for job in jobs):
        return False
    if case.sent("chat-requests") - replies_by_request(case).keys():
        return False
    return not case.evidence.uncommitted()


def check(case: Case, *, settled: bool) -> Verdict:
    """Decide the invariant."""
    case.evidence.read()
    left = [] if settled else case.evidence.uncommitted()
    other = [] if settled else [f"not settled in time; uncommitted: {left}"]
    return Verdict(
        lost=tuple(_lost(case)),
        doubled=tuple(_doubled(case)),
        mixed=tuple(_mixed(case)),
        other=(*other, *_unlike_what_is_told(case)),
    )


# What is there ---------------------------------------------------------------------------------


def replies_by_request(case: Case) -> dict[str, set[tuple[bytes | None, bytes | None]]]:
    """The different last replies to each chat request; a repeat is the same one."""
    found: dict[str, set[tuple[bytes | None, bytes | None]]] = defaultdict(set)
    for record in case.records("chat-replies"):
        if record.header("final") != b"false":
            request = (record.header("kafka_correlationId") or b"").decode()
            found[request].add((record.header("ce_id"), record.value))
    return dict(found)


def ends_by_job(case: Case) -> dict[str, set[tuple[bytes | None, str]]]:
    """The different terminal events of each job."""
    found: dict[str, set[tuple[bytes | None, str]]] = defaultdict(set)
    for record in case.records("train-progress"):
        told = _data(record)
        if told["status"] in TERMINAL:
            found[told["job_id"]].add((record.header("ce_id"), told["status"]))
    return dict(found)


def ready_by_job(case: Case) -> dict[str, set[bytes | None]]:
    """The ids of each job's `model-ready`."""
    found: dict[str, set[bytes | None]] = defaultdict(set)
    for record in case.records("model-ready"):
        found[_data(record)["job_id"]].add(record.header("ce_id"))
    return dict(found)


def jobs_by_request(case: Case) -> dict[str, list[dict[str, Any]]]:
    """The ledger's jobs of each request."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in case.jobs():
        if job["request_source"] == SOURCE:
            found[job["request_id"]].append(job)
    return dict(found)


# The invariant ---------------------------------------------------------------------------------


def _lost(case: Case) -> Iterable[str]:
    jobs, ends = jobs_by_request(case), ends_by_job(case)
    for request in sorted(case.sent("train-requested")):
        if request not in jobs:
            yield f"{request} is not in the ledger"
    for job in (job for found in jobs.values() for job in found):
        if job["status"] not in TERMINAL:
            yield f"job {job['_id']} has no end: {job['status']}"
        elif job["_id"] not in ends:
            yield f"job {job['_id']} ended and nobody was told"
    for request in sorted(case.sent("chat-requests") - replies_by_request(case).keys()):
        yield f"{request} has no reply"
    for topic in ("train-requested", "chat-requests", "answers-updated"):
        letters = {r.header("ce_id") for r in case.records(f"{topic}-dlt")}
        for poison in sorted(case.sent(topic, valid=False)):
            if poison.encode() not in letters:
                yield f"{poison} is no dead letter"
    told = {_data(record)["elder_id"] for record in case.records("dataset-ready")}
    for operation in case.operations:
        asked = operation.event_id in case.sent("answers-updated")
        if asked and operation.elder_id not in told:
            yield f"{operation.event_id} has no dataset-ready"


def _doubled(case: Case) -> Iterable[str]:
    for request, jobs in jobs_by_request(case).items():
        if len(jobs) > 1:
            yield f"{request} has {len(jobs)} jobs"
    for job, ends in ends_by_job(case).items():
        if len(ends) > 1:
            yield f"job {job} has several ends: {sorted(ends, key=str)}"
    for job, ids in ready_by_job(case).items():
        if len(ids) > 1:
            yield f"job {job} has several model-ready: {sorted(ids, key=str)}"
    for request, replies in replies_by_request(case).items():
        if len(replies) > 1:
            yield f"{request} has {len(replies)} different replies"


def _mixed(case: Case) -> Iterable[str]:
    for record in case.records("chat-replies"):
        told = _data(record)
        request = (record.header("kafka_correlationId") or b"").decode()
        asked = {o.elder_id for o in case.operations if o.event_id == request}
        if told["error"] is None and {told["elder_id"]} != asked:
            yield f"{request} was answered for {told['elder_id']}"
        if told["model"] and told["model"].split(":")[0] != f"afs_elder_{told['elder_id']}":
            yield f"{request} was answered by {told['model']}"
        if any(not s["answer_id"].startswith(f"{told['elder_id']}-") for s in told["sources"]):
            yield f"{request} was answered from another's memories"
    jsonl = case.evidence.settings.data_dir / case.evidence.settings.training().paths.jsonl
    for elder in case.elders:
        for path in (jsonl / elder.id).glob("*.jsonl"):
            content = path.read_bytes()
            for other in case.elders:
                if (other.mark.encode() in content) != (other is elder):
                    yield f"{path.name} of {elder.id}: {other.id}'s mark is wrong"


def _unlike_what_is_told(case: Case) -> Iterable[str]:
    """A job that succeeded has a model that answers; the names agree; the files are whole."""
    ready = ready_by_job(case)
    client = ollama.Client(case.evidence.servers.ollama_host, timeout=LIMIT_S)
    digests = {model.model: model.digest for model in client.list().models}
    for job in (job for found in jobs_by_request(case).values() for job in found):
        wanted = "failed" if job["elder_id"] == case.elders[-1].id else "succeeded"
        if job["status"] != wanted:
            yield f"job {job['_id']} {job['status']}: {(job['error'] or {}).get('code')}"
        if job["status"] == "succeeded":
            if job["_id"] not in ready:
                yield f"job {job['_id']} succeeded without model-ready"
            tag = f"afs_elder_{job['elder_id']}:v{job['version']}"
            if not _answers(client, tag):
                yield f"{tag} does not answer"
    for model in case.models():
        if model["current"] is not None:
            yield from _unsound(case, model["_id"], model, digests)
    yield from _disordered(case)
    yield from (f"left in Ollama: {tag}" for tag in digests if _is_left(case, tag))
    client.close()  # type: ignore[no-untyped-call]


def _is_left(case: Case, tag: str | None) -> bool:
    mine = any(f"afs_elder_{elder.id}:" in (tag or "") for elder in case.elders)
    return mine and "-candidate" in (tag or "")


def _unsound(
    case: Case, elder_id: str, model: dict[str, Any], digests: dict[str | None, Any]
) -> Iterable[str]:
    current = next(v for v in model["versions"] if v["version"] == model["current"])
    newest = max(v["version"] for v in model["versions"] if v["ready"])
    if current["version"] != newest:
        yield f"{elder_id}: version {current['version']} answers, {newest} is the newest"
    latest = digests.get(f"afs_elder_{elder_id}:latest")
    if latest is None or latest != digests.get(current["tag"]):
        yield f"{elder_id}: latest is {latest}, {current['tag']} {digests.get(current['tag'])}"
    folder, paths = case.evidence.settings.data_dir, case.evidence.settings.training().paths
    jsonl = folder / paths.jsonl / elder_id / f"{current['dataset_sha256']}.jsonl"
    if not jsonl.is_file() or _sha256(jsonl.read_bytes()) != current["dataset_sha256"]:
        yield f"{elder_id}: the data set of {current['tag']} is not whole"
    adapters = (folder / paths.adapters / elder_id).rglob("adapter.gguf")
    found = {_sha256(path.read_bytes()) for path in adapters}
    if current["gguf_sha256"] not in found:
        wanted = current["gguf_sha256"]
        yield f"{elder_id}: the adapter of {current['tag']} is {found}, not {wanted}"


def _disordered(case: Case) -> Iterable[str]:
    """Of each job, what is new comes in order; a repeat says nothing new."""
    newest: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    for record in case.records("train-progress"):
        told = _data(record)
        job, sequence = told["job_id"], told["sequence"]
        if (job, sequence) in seen:
            continue
        seen.add((job, sequence))
        if sequence < newest.get(job, 0):
            yield f"job {job}: {sequence} came after {newest[job]}"
        newest[job] = max(sequence, newest.get(job, 0))


def _answers(client: ollama.Client, tag: str) -> bool:
    try:
        reply = client.chat(
            tag, [{"role": "user", "content": "Where were you born?"}], options={"num_predict": 2}
        )
    except ollama.ResponseError:
        return False
    return bool(reply.eval_count)


def _data(record: Record) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(record.value or b"{}")
    return data


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
