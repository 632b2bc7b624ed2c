"""What a run leaves behind in Kafka, MongoDB, Ollama and on the disk, as the checker reads it."""

import hashlib
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import ollama
from confluent_kafka import Consumer, KafkaException, TopicPartition

from config.settings import Settings
from consumers.kafka.records import to_record
from consumers.operations.topics import broker_name
from embedded.stack import StackAddresses
from pipeline.storage.mongo import Store
from pipeline.training.merging.merge import merge
from schemas.base import Frozen
from schemas.hosting import MergeSpec
from schemas.record import Record
from schemas.topics import all_topics
from schemas.training import ADAPTER_GGUF
from tests.chaos.workload import SENT_AS, Elder, Operation

LIMIT_S = 30.0
_PAUSE_S = 0.5
_QUESTION = "Where were you born?"
_ADAPTER = re.compile(r"^ADAPTER .*sha256[:-]([0-9a-f]{64})", re.MULTILINE)
# A Modelfile names the blob by path (Ollama) or by digest (the embedded server), or names a model.
_WEIGHTS = re.compile(r"^FROM .*sha256[:-]([0-9a-f]{64})", re.MULTILINE)
_ROLES = {
    "answers-updated": "answers",
    "train-requested": "training",
    "chat-requests": "chat",
    "model-commands": "models",
}


class Served(Frozen):
    """A model as Ollama serves it."""

    text: str
    """Its Modelfile, system prompt and all."""
    adapters: frozenset[str]
    """The SHA-256 of each adapter."""
    weights: str | None = None
    """The SHA-256 of the model's own GGUF; None where the Modelfile names another model."""


class Evidence(Protocol):
    """Everything that the checker may look at."""

    def records(self, topic: str, key: bytes) -> list[Record]:
        """Return the records of a topic of the catalogue under a key, as far as `read` has come."""

    def read(self) -> None:
        """Read the records that have come since the last call."""

    def uncommitted(self) -> list[str]:
        """Return the partitions of inbound topics whose committed offset is below their end."""

    def jobs(self, elders: list[str]) -> list[dict[str, Any]]:
        """Return the ledger's jobs of these elders."""

    def models(self, elders: list[str]) -> list[dict[str, Any]]:
        """Return the registry's models of these elders."""

    def datasets(self, elder_id: str) -> dict[str, bytes]:
        """Return the content of each of an elder's JSONL files, by file name without the suffix."""

    def adapters(self, elder_id: str) -> set[str]:
        """Return the SHA-256 of each of an elder's GGUF adapters on the disk."""

    def merged(self, elder_id: str, adapter: str) -> str | None:
        """Return the SHA-256 of base and adapter merged; None if the elder has no such adapter."""

    def tags(self) -> dict[str, str]:
        """Return the digest of each model in Ollama, by tag."""

    def served(self, tag: str) -> Served | None:
        """Return how Ollama serves a model, or None."""

    def answers(self, tag: str) -> bool:
        """Say whether a model in Ollama answers a question."""


class Remains(Evidence):
    """The evidence of a session on real servers."""

    def __init__(
        self, servers: StackAddresses, settings: Settings, store: Store, base_gguf: Path
    ) -> None:
        self._base_gguf = base_gguf
        self._merged: dict[str, str] = {}
        self._settings = settings
        self._store = store
        self._ollama = ollama.Client(servers.ollama_host, timeout=LIMIT_S)
        paths = settings.training().paths
        self._jsonl = settings.data_dir / paths.jsonl
        self._adapters = settings.data_dir / paths.adapters
        self._records: dict[tuple[str, bytes | None], list[Record]] = defaultdict(list)
        self._consumer: Consumer | None = None

    def records(self, topic: str, key: bytes) -> list[Record]:
        """Return the records that were read until now."""
        return self._records[self._broker_name(topic), key]

    def uncommitted(self) -> list[str]:
        """Ask Kafka, and again for a while where a broker is away or its partitions are moving."""
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
            group = {"group.id": self._settings.kafka.group(role)}
            with closing(Consumer(self._settings.kafka.client() | group)) as asking:
                name = self._broker_name(topic)
                partitions = asking.list_topics(name, timeout=LIMIT_S).topics[name].partitions
                asked = [TopicPartition(name, p) for p in partitions]
                for position in asking.committed(asked, timeout=LIMIT_S):
                    # The embedded broker's end offset counts only one record of the last batch.
                    _, end = asking.get_watermark_offsets(position, timeout=LIMIT_S)
                    if max(position.offset, 0) < end:
                        yield f"{topic}/{position.partition}: {position.offset} of {end}"

    def jobs(self, elders: list[str]) -> list[dict[str, Any]]:
        """Ask MongoDB."""
        return list(self._store["jobs"].find({"elder_id": {"$in": elders}}))

    def models(self, elders: list[str]) -> list[dict[str, Any]]:
        """Ask MongoDB."""
        return list(self._store["models"].find({"_id": {"$in": elders}}))

    def datasets(self, elder_id: str) -> dict[str, bytes]:
        """Read the disk."""
        return {p.stem: p.read_bytes() for p in (self._jsonl / elder_id).glob("*.jsonl")}

    def adapters(self, elder_id: str) -> set[str]:
        """Read the disk."""
        return set(self._adapters_of(elder_id))

    def _adapters_of(self, elder_id: str) -> dict[str, Path]:
        found = (self._adapters / elder_id).rglob(ADAPTER_GGUF)
        return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in found}

    def merged(self, elder_id: str, adapter: str) -> str | None:
        """Merge them once more, in a folder of the checker's own."""
        path = self._adapters_of(elder_id).get(adapter)
        if path is None:
            return None
        if adapter not in self._merged:
            self._merged[adapter] = self._merge(elder_id, adapter, path)
        return self._merged[adapter]

    def _merge(self, elder_id: str, adapter: str, path: Path) -> str:
        with tempfile.TemporaryDirectory(prefix="chaos-merge-") as folder:
            spec = MergeSpec(
                job_id="checker",
                elder_id=elder_id,
                fence=1,
                base_gguf=self._base_gguf,
                adapter_gguf=path,
                adapter_sha256=adapter,
                quantization="q8_0",
                work_dir=Path(folder),
            )
            return merge(spec, on_progress=lambda _: None, should_stop=lambda: False).sha256

    def tags(self) -> dict[str, str]:
        """Ask Ollama."""
        return {m.model or "": m.digest or "" for m in self._ollama.list().models}

    def served(self, tag: str) -> Served | None:
        """Ask Ollama."""
        try:
            shown = self._ollama.show(tag)
        except ollama.ResponseError:
            return None
        # Not `shown.system`: the client library's answer has no such field.
        text = shown.modelfile or ""
        weights = _WEIGHTS.search(text)
        return Served(
            text=text,
            adapters=frozenset(_ADAPTER.findall(text)),
            weights=weights[1] if weights else None,
        )

    def answers(self, tag: str) -> bool:
        """Ask Ollama."""
        question = [{"role": "user", "content": _QUESTION}]
        try:
            reply = self._ollama.chat(tag, question, options={"num_predict": 2})
        except ollama.ResponseError:
            return False
        return bool(reply.eval_count)

    def close(self) -> None:
        """Close the connections."""
        self._ollama.close()  # type: ignore[no-untyped-call]
        if self._consumer is not None:
            self._consumer.close()

    def _broker_name(self, topic: str) -> str:
        return next(broker_name(self._settings, t) for t in all_topics() if t.name == topic)

    def read(self) -> None:
        """Read Kafka."""
        if self._consumer is None:
            self._consumer = self._open()
        while (message := self._consumer.poll(0.3)) is not None:
            if message.error() is None:
                record = to_record(message)
                self._records[record.topic, record.key].append(record)

    def _open(self) -> Consumer:
        consumer = Consumer(
            self._settings.kafka.client()
            | {
                "group.id": f"{self._settings.kafka.group_prefix}-checker",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            }
        )
        names = [broker_name(self._settings, topic) for topic in all_topics()]
        known = consumer.list_topics(timeout=LIMIT_S).topics
        consumer.assign([TopicPartition(n, p, 0) for n in names for p in known[n].partitions])
        return consumer


class Case:
    """One run: its elders, what the driver sent, and the evidence about these elders."""

    def __init__(
        self, evidence: Evidence, elders: tuple[Elder, ...], operations: list[Operation]
    ) -> None:
        self.evidence = evidence
        self.elders = elders
        self.operations = operations
        self._ids = [elder.id for elder in elders]

    def sent(self, topic: str, *, valid: bool = True) -> set[str]:
        """Return the event ids that the broker accepted: confirmed, or found in the topic."""
        there = {record.header(SENT_AS) for record in self.records(topic)}
        return {
            o.event_id
            for o in self.operations
            if o.topic == topic
            and o.valid == valid
            and (o.outcome == "ok" or o.event_id.encode() in there)
        }

    def records(self, topic: str) -> list[Record]:
        """Return the records of a topic of the catalogue about these elders, until now."""
        return [r for i in self._ids for r in self.evidence.records(topic, i.encode())]

    def jobs(self) -> list[dict[str, Any]]:
        """Return the ledger's jobs of these elders."""
        return self.evidence.jobs(self._ids)

    def models(self) -> list[dict[str, Any]]:
        """Return the registry's models of these elders."""
        return self.evidence.models(self._ids)
