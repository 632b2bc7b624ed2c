"""The metric catalogue: every metric once, with its meaning. No label is ever an elder's id."""

from collections.abc import Mapping, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.base import Frozen

Kind = Literal["counter", "gauge", "histogram"]
PREFIX = "modelserver"
# OpenTelemetry's GenAI buckets: 10 ms doubling to 82 s, and larger ones for cold loads.
_CHAT_SECONDS = tuple(0.01 * 2**i for i in range(16))
_TOKENS = tuple(float(4**i) for i in range(10))
_STAGE_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)


class MetricDefinition(Frozen):
    """A metric as Prometheus shows it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str


class Metrics:
    """All metrics of the program over one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._catalogue: dict[str, list[MetricDefinition]] = {}
        self._consuming()
        self._training()
        self._chatting()
        self._producing()
        self._hosting()

    def catalogue(self) -> Mapping[str, Sequence[MetricDefinition]]:
        """Return the definition of every metric, grouped by what it is about."""
        return self._catalogue

    def _consuming(self) -> None:
        self._group("Consumers")
        self.consumed = self._counter(
            "messages_consumed", "Records processed, by outcome.", "topic", "outcome"
        )
        self.processing = self._histogram(
            "message_processing_seconds", "From a record's receipt to its outcome.", "topic"
        )
        self.lag = self._gauge(
            "consumer_lag_records", "Records behind the end of the topic.", "topic", "partition"
        )
        self.paused = self._gauge(
            "consumer_paused", "1 while backpressure pauses the partitions.", "role"
        )
        self.in_flight = self._gauge("records_in_flight", "Records being worked on.", "role")
        self.last_poll = self._gauge(
            "last_poll_timestamp_seconds", "Unix time of the last poll.", "role"
        )
        self.rebalances = self._counter(
            "rebalances", "Changes of the assigned partitions.", "role", "kind"
        )
        self.dead_letters = self._counter(
            "dead_letters", "Records set aside in a dead-letter topic.", "topic", "reason"
        )
        self.retries = self._counter(
            "retries", "Waits for a dependency that was down.", "topic", "reason"
        )

    def _training(self) -> None:
        self._group("Training")
        self.jobs = self._counter("training_jobs", "Jobs that ended, by outcome.", "outcome")
        self.jobs_in_progress = self._gauge("training_jobs_in_progress", "Jobs that run here.")
        self.jobs_queued = self._gauge("training_jobs_queued", "Jobs waiting in the ledger.")
        self.stage_seconds = self._histogram(
            "training_stage_seconds", "How long a stage took.", "stage", buckets=_STAGE_SECONDS
        )
        self.train_rate = self._gauge(
            "training_tokens_per_second", "Trained tokens a second.", "base_model"
        )
        self.loss = self._gauge("training_loss", "The last step's loss.", "base_model")
        self.gpu_peak = self._gauge("training_gpu_peak_bytes", "Peak GPU memory of the last job.")
        self.lease_losses = self._counter("lease_losses", "Jobs lost to another worker.")
        self.last_success = self._gauge(
            "training_last_success_timestamp_seconds", "Unix time of the last success."
        )
        self.outbox_age = self._gauge(
            "outbox_oldest_seconds", "Age of the oldest event not yet published."
        )
        self.retention_removed = self._counter(
            "retention_removed", "What retention removed, by kind.", "kind"
        )
        self.retention_failures = self._counter(
            "retention_failures", "Rounds of retention that failed, by reason.", "reason"
        )
        self.skipped = self._counter(
            "answers_skipped", "Answers left out of a data set, by reason.", "reason"
        )

    def _chatting(self) -> None:
        self._group("Chat")
        self.chat_seconds = self._histogram(
            "chat_duration_seconds",
            "From a request's receipt to its reply.",
            "outcome",
            buckets=_CHAT_SECONDS,
        )
        self.first_token = self._histogram(
            "chat_time_to_first_token_seconds",
            "From a request's receipt to the first token of its streamed reply.",
            buckets=_CHAT_SECONDS,
        )
        self.tokens = self._histogram(
            "chat_tokens", "Tokens of one chat, by kind.", "kind", buckets=_TOKENS
        )
        self.ollama_errors = self._counter("ollama_errors", "Failed calls to Ollama.", "reason")

    def _producing(self) -> None:
        self._group("Producers")
        self.delivered = self._counter(
            "deliveries",
            "Events confirmed by the broker; topic `other`: all reply topics that requests named.",
            "topic",
        )
        self.delivery_failures = self._counter(
            "delivery_failures", "Events the broker did not confirm.", "topic"
        )

    def _hosting(self) -> None:
        self._group("The role `host`")
        self.host_adapters = self._gauge(
            "host_adapters_loaded", "Adapters that the host role has loaded and answers with."
        )
        self.host_loads = self._counter(
            "host_loads", "Starts of llama-server, each with all adapters, by outcome.", "outcome"
        )
        self.host_load_seconds = self._histogram(
            "host_load_seconds", "How long a start of llama-server took.", buckets=_STAGE_SECONDS
        )

    def _group(self, title: str) -> None:
        """Begin a group of the catalogue, to which the metrics defined next belong."""
        self._catalogue[title] = []

    def _define(self, kind: Kind, name: str, meaning: str, labels: tuple[str, ...]) -> str:
        """Add a metric to the catalogue's last group; return its name with the prefix."""
        full = f"{PREFIX}_{name}"
        shown = f"{full}_total" if kind == "counter" else full
        group = next(reversed(self._catalogue.values()))
        group.append(MetricDefinition(name=shown, kind=kind, labels=labels, meaning=meaning))
        return full

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        full = self._define("counter", name, meaning, labels)
        return Counter(full, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        full = self._define("gauge", name, meaning, labels)
        return Gauge(full, meaning, labels, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...] | None = None
    ) -> Histogram:
        return Histogram(
            self._define("histogram", name, meaning, labels),
            meaning,
            labels,
            registry=self.registry,
            buckets=buckets or Histogram.DEFAULT_BUCKETS,
        )
