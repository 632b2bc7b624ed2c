"""The composition root: settings in, running roles out. Nothing else wires parts together."""

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import Literal

import structlog

from config.metrics import Metrics
from config.settings import Settings
from consumers.handlers.answers import AnswersHandler
from consumers.handlers.chat import ChatExecutor
from consumers.handlers.models import ModelsHandler
from consumers.handlers.training import TrainingHandler
from consumers.kafka.backoff import backoff_s, describe_fault
from consumers.kafka.dispatch import Dispatcher, Handler
from consumers.kafka.lanes import Executor, Lanes
from consumers.kafka.loop import ConsumerLoop
from consumers.operations.server import Health, OpsServer
from consumers.operations.topics import apply_topics
from consumers.workers.worker import StageClock, TrainingWorker
from pipeline.chat.service import ChatService
from pipeline.chat.store import ChatStore
from pipeline.dataset.answers import MongoAnswers
from pipeline.dataset.builder import DatasetBuilder
from pipeline.hosting.failure_attribution import attributed_failures
from pipeline.hosting.ollama import OllamaHost
from pipeline.jobs.forms import FormMaker
from pipeline.jobs.process import TrainingProcess
from pipeline.jobs.proof import Prover
from pipeline.jobs.quiet import QuietMoments
from pipeline.jobs.trainer import OllamaTrainer
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.outbox import Announcer, Outbox
from pipeline.storage.lease import Lease
from pipeline.storage.mongo import ensure_indexes, open_client, store_errors
from pipeline.versions.inventory import Inventory
from pipeline.versions.manager import ModelManager
from pipeline.versions.registry import DatasetRegistry, ModelRegistry
from pipeline.versions.retention import Removal, Retention
from producers.events import Events
from producers.publisher import KafkaPublisher
from producers.relay import Relay
from producers.replies import Replies
from schemas.access import topics_of
from schemas.errors import RetryError, StoreUnavailable
from schemas.topics import ANSWERS_UPDATED, CHAT_REQUESTS, MODEL_COMMANDS, TRAIN_REQUESTED, Topic

RoleName = Literal["answers", "training", "chat", "models"]
ROLES: tuple[RoleName, ...] = ("answers", "training", "chat", "models")
SOURCE = "heirloom/modelserver"
_RELAY_POLL_S = 0.2
_RELAY_LEASE_S = 5.0
INGEST_BATCH = 500
TRAINING_LIMIT = 5000
_LANES = 4

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """The wall clock of this machine."""
    return datetime.now(UTC)


class App:
    """All parts over one set of settings; use as a context manager."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.training = settings.training()
        self.health = Health(settings.ops.stale_after_s)
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._client = open_client(settings.mongodb)
        store = self._client[settings.mongodb.database]
        self.store = store
        self.answers = MongoAnswers(store, settings.mongodb)
        self.registry = ModelRegistry(store)
        self.dataset_registry = DatasetRegistry(store)
        self.host = OllamaHost(settings.model_host())
        self.ledger = Ledger(
            store,
            Announcer(utc_now, settings.language),
            lease_s=settings.worker.lease_s,
            fair_s=settings.worker.fair_s,
            fence_off=self.registry.fence_off,
        )
        self.manager = ModelManager(self.registry, self.host, self.ledger)
        self.datasets = DatasetBuilder(
            self.answers, self.training, settings.data_dir / self.training.paths.jsonl
        )
        self.retention = Retention(
            self.registry,
            self.ledger,
            self.dataset_registry,
            self.host,
            Inventory(
                settings.data_dir / self.training.paths.jsonl,
                settings.data_dir / self.training.paths.adapters,
            ),
            settings.retention,
            time.time,
        )
        self.events = Events(SOURCE, settings.topic, utc_now)
        self.replies = Replies(SOURCE, settings.topic, settings.chat.reply_topics, utc_now)
        self.publisher = KafkaPublisher(settings.kafka, self.metrics)
        self._threads: list[threading.Thread] = []
        self._relays: list[threading.Thread] = []
        self._relays_stop = threading.Event()

    def close(self) -> None:
        """Close the connections."""
        self.host.close()
        self._client.close()

    # Roles ----------------------------------------------------------------------------------

    def run(self, roles: Sequence[RoleName], stop: threading.Event) -> None:
        """Run roles until `stop` is set, then finish what is under way and leave."""
        with ExitStack() as stack:
            stack.callback(self.close)
            self._prepare(roles, stop)
            stack.enter_context(self.publisher)
            starters: dict[RoleName, Callable[[threading.Event, ExitStack], None]] = {
                "answers": self._start_answers,
                "training": self._start_training,
                "chat": self._start_chat,
                "models": self._start_models,
            }
            self.health.require("mongodb", self._ping_store)
            self.health.require("ollama", self.host.check)
            self.health.require("publisher", self.publisher.check)
            ops = stack.enter_context(OpsServer(self.settings.ops, self.metrics, self.health))
            for role in roles:
                starters[role](stop, stack)
            log.info("app.started", roles=list(roles), ops_port=ops.port)
            stop.wait()
            log.info("app.stopping")
            for thread in self._threads:
                thread.join()
            # Last of all: what the worker said in its end goes out with this process.
            self._relays_stop.set()
            for thread in self._relays:
                thread.join()
        log.info("app.stopped")

    def _prepare(self, roles: Sequence[RoleName], stop: threading.Event) -> None:
        """Create indexes and the roles' topics; wait for servers that are not up yet."""
        topics = [topic for role in roles for topic in topics_of(role)]
        attempt = 0
        while not stop.is_set():
            try:
                ensure_indexes(self.store, self.settings.chat.dedup_hours)
                apply_topics(self.settings, topics=topics)
                return
            except RetryError as error:
                attempt += 1
                log.warning("app.waits", code=error.code, reason=error.message)
                stop.wait(backoff_s(attempt))

    def _start_answers(self, stop: threading.Event, stack: ExitStack) -> None:
        handler = AnswersHandler(
            self.answers,
            self.datasets,
            self.dataset_registry,
            self.events,
            self.publisher.confirm,
            self.metrics,
            self.training.current_model,
            utc_now,
        )
        self._start_lanes("answers", ANSWERS_UPDATED, handler, stop, count=_LANES)

    def _start_training(self, stop: threading.Event, stack: ExitStack) -> None:
        worker = self._worker(stack)
        handler = TrainingHandler(self.ledger, self.training, worker.wake)
        self._start_lanes(
            "training", TRAIN_REQUESTED, handler, stop, batch=INGEST_BATCH, limit=TRAINING_LIMIT
        )
        self._threads.append(self._start_thread("worker", lambda: worker.run(stop)))
        outbox = Outbox(self.store, SOURCE)
        lease = Lease(self.store, "relay", self.owner, lease_s=self._relay_lease_s())
        # A producer of its own: what it holds is dropped when the turn is lost, by us or, where
        # this process was stopped meanwhile, by librdkafka, which looks for it once a second.
        limit_s = lease.lease_s / 2 - 1
        kafka = self.settings.kafka.with_delivery_within(limit_s)
        publisher = stack.enter_context(KafkaPublisher(kafka, self.metrics))
        deliver = partial(publisher.deliver, may_go_on=lease.renew)
        may_publish = partial(lease.is_held_for, limit_s + 1)
        relay = Relay(outbox, self.events.stored, deliver, may_publish)
        relaying = self._start_thread(
            "relay", lambda: self._relay(relay, outbox, lease, self._relays_stop)
        )
        self._relays.append(relaying)

    def _tidy(self, elder_id: str) -> Removal | None:
        return self.retention.prune(elder_id, is_thorough=False)

    def _relay_lease_s(self) -> float:
        """Long enough for a renewal, which has half of it, to find another server."""
        return max(_RELAY_LEASE_S, 2 * self.settings.mongodb.timeout_s)

    def _worker(self, stack: ExitStack) -> TrainingWorker:
        stages = StageClock(self.metrics)
        settings = self.settings
        num_ctx = settings.chat.num_ctx
        quantization = self.training.quantization
        runner = stack.enter_context(TrainingProcess(silence_s=settings.worker.silence_s))
        forms = FormMaker(
            self.host, runner, settings.host, quantization, num_ctx=num_ctx, clock=utc_now
        )
        quiet = QuietMoments(self.host, settings.evaluation, num_ctx)
        trainer = OllamaTrainer(
            self.datasets,
            self.registry,
            self.host,
            runner,
            self.training,
            lambda key: settings.base(self.training, key),
            forms,
            Prover(self.host, forms, quiet, settings.evaluation, quantization, num_ctx),
            settings.data_dir / self.training.paths.adapters,
            utc_now,
            stages.begin,
            num_ctx=num_ctx,
        )
        return TrainingWorker(
            self.owner,
            self.ledger,
            trainer,
            stages,
            self.settings.worker,
            self.metrics,
            prune=self._tidy if settings.retention.after_each_job else _keep_all,
        )

    def _relay(self, relay: Relay, outbox: Outbox, lease: Lease, stop: threading.Event) -> None:
        """Publish what the ledger holds; once more after the stop, for what was just stored.

        One process at a time does it, so that a job's events come in order.
        """
        attempt = 0
        last = False
        while not last:
            last = stop.is_set()
            try:
                sent = relay.run_once() if lease.acquire() else 0
                oldest = outbox.oldest() if not sent else None
                age_s = (utc_now() - oldest).total_seconds() if oldest else 0.0
                self.metrics.outbox_age.set(age_s)
                attempt = 0
                if not sent:
                    stop.wait(_RELAY_POLL_S)
            except RetryError as error:
                attempt += 1
                log.warning("relay.waits", code=error.code, reason=error.message)
                stop.wait(backoff_s(attempt))
            except Exception as error:  # the thread's edge: events must not wait in silence
                attempt += 1
                log.error("relay.fault", fault=describe_fault(error))
                stop.wait(backoff_s(attempt))
        with suppress(StoreUnavailable):  # Then the turn ends by itself.
            lease.release()

    def _start_chat(self, stop: threading.Event, stack: ExitStack) -> None:
        settings = self.settings
        executor = ChatExecutor(
            lambda: ChatStore(settings.mongodb),
            lambda store: ChatService(
                store, settings.model_host(), settings.chat, on_lost=self._request_form
            ),
            self.publisher,
            self.replies,
            settings.chat,
            self.metrics,
            settings.kafka.group("chat"),
            utc_now,
            max_bytes=settings.max_message_bytes,
        )
        self._start_loop("chat", CHAT_REQUESTS, executor, stop, settings.chat.concurrency * 4)

    def _request_form(self, elder_id: str, is_gone: bool) -> str | None:
        """Have the form of the version that answers made again; return the job's id.

        A model that is there and fails is made again only where the host, upgraded, makes models
        of its form no more.
        """
        model = self.registry.find(elder_id)
        if model is None or model.serving is None:
            return None
        if not is_gone and model.serving.form in self.host.describe().forms:
            return None
        job = self.ledger.request_form(model, model.serving.version, makes_current=False)
        return job.id

    def _start_models(self, stop: threading.Event, stack: ExitStack) -> None:
        handler = ModelsHandler(
            self.manager,
            self.ledger,
            self.datasets,
            self.dataset_registry,
            self.replies,
            self.publisher.confirm,
            self.training.current_model,
            lambda elder_id: attributed_failures(self.host, elder_id, self.settings.chat.num_ctx),
        )
        self._start_lanes("models", MODEL_COMMANDS, handler, stop, count=_LANES)

    def _start_lanes(
        self,
        role: str,
        topic: Topic,
        handler: Handler,
        stop: threading.Event,
        *,
        count: int = 1,
        batch: int = 1,
        limit: int = 100,
    ) -> None:
        dispatcher = Dispatcher(
            topic.name,
            self.settings.kafka.group(role),
            handler,
            self.publisher.confirm,
            self.metrics,
            stop,
            max_bytes=self.settings.max_message_bytes,
        )
        lanes = Lanes(role, dispatcher.process, count=count, batch=batch)
        self._start_loop(role, topic, lanes, stop, limit)

    def _start_loop(
        self, role: str, topic: Topic, executor: Executor, stop: threading.Event, limit: int
    ) -> None:
        loop = ConsumerLoop(
            role,
            [self.settings.topic(topic.name)],
            self.settings.kafka,
            executor,
            self.metrics,
            limit=limit,
        )
        self.health.watch_loop(
            role, lambda: loop.last_poll, lambda: loop.assigned, lambda: loop.refused
        )
        for thread in executor.threads:
            self.health.watch_thread(thread)
        self._threads.append(self._start_thread(role, lambda: loop.run(stop)))

    def _start_thread(self, name: str, run: Callable[[], None]) -> threading.Thread:
        def run_loudly() -> None:
            try:
                run()
            except Exception as error:  # the thread's edge: it ends, and /livez says so
                log.error("thread.fault", thread=name, fault=describe_fault(error))

        thread = threading.Thread(target=run_loudly, name=name)
        thread.start()
        self.health.watch_thread(thread)
        return thread

    def _ping_store(self) -> None:
        with store_errors():
            self._client.admin.command("ping")


def _keep_all(elder_id: str) -> None:
    """Remove nothing."""


@contextmanager
def stop_on_signals(*, raise_interrupt: bool = False) -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set; the handlers before come back at the end.

    With `raise_interrupt` the main thread also gets KeyboardInterrupt, for work that waits in
    many places and has nothing to finish.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            # Asked twice: whoever asks does not want to wait. Leases and offsets stay safe.
            os._exit(128 + number)
        stop.set()
        if raise_interrupt:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
