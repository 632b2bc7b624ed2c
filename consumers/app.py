"""The composition root: wires the parts and runs roles. No other module wires them."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Literal

import structlog

from config.metrics import Metrics
from config.settings import Settings
from consumers.handlers.answers import AnswersHandler
from consumers.handlers.chat import ChatExecutor
from consumers.handlers.lost_models import LostModels
from consumers.handlers.models import ModelsHandler
from consumers.handlers.training import TrainingHandler
from consumers.kafka.dispatch import Dispatcher, Handler
from consumers.kafka.lanes import Executor, Lanes
from consumers.kafka.loop import ConsumerLoop
from consumers.operations.health import Health
from consumers.operations.preparation import prepare_servers
from consumers.operations.server import OpsServer
from consumers.workers.relay_worker import open_relay
from consumers.workers.stage_clock import StageClock
from consumers.workers.threads import WatchedThreads
from consumers.workers.training_worker import TrainingWorker
from pipeline.chat.service import ChatService
from pipeline.chat.store import ChatStore
from pipeline.dataset.answers import MongoAnswers
from pipeline.dataset.builder import DatasetBuilder
from pipeline.hosting.failure_attribution import attributed_failures
from pipeline.hosting.ollama import OllamaHost
from pipeline.jobs.forms import FormMaker
from pipeline.jobs.idle import IdleHost
from pipeline.jobs.proof import Prover
from pipeline.jobs.trainer import OllamaTrainer
from pipeline.jobs.training_process import TrainingProcess
from pipeline.ledger.events import Announcer
from pipeline.ledger.ledger import Ledger
from pipeline.storage.mongo import open_client, store_errors
from pipeline.versions.inventory import Inventory
from pipeline.versions.manager import ModelManager
from pipeline.versions.registry import DatasetRegistry, ModelRegistry
from pipeline.versions.retention import Removal, Retention
from producers.events import Events
from producers.publisher import KafkaPublisher
from producers.replies import Replies
from schemas.access import topics_of
from schemas.topics import ANSWERS_UPDATED, CHAT_REQUESTS, MODEL_COMMANDS, TRAIN_REQUESTED, Topic

RoleName = Literal["answers", "training", "chat", "models"]
ROLES: tuple[RoleName, ...] = ("answers", "training", "chat", "models")
SOURCE = "heirloom/modelserver"
INGEST_BATCH = 500
TRAINING_LIMIT = 5000
_LANES = 4

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """Return the time by this machine's wall clock."""
    return datetime.now(UTC)


class App:
    """All parts, built from one set of settings. `run` closes them; without it, call `close`."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.training = settings.training()
        self.health = Health(settings.ops.stale_after_s)
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._client = open_client(settings.mongodb)
        store = self.store = self._client[settings.mongodb.database]
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
        jsonl = settings.data_dir / self.training.paths.jsonl
        self._adapters = settings.data_dir / self.training.paths.adapters
        self.datasets = DatasetBuilder(self.answers, self.training, jsonl)
        self.retention = Retention(
            registry=self.registry,
            ledger=self.ledger,
            datasets=self.dataset_registry,
            host=self.host,
            inventory=Inventory(jsonl, self._adapters),
            settings=settings.retention,
            clock=time.time,
        )
        self.events = Events(SOURCE, settings.topic, utc_now)
        self.replies = Replies(SOURCE, settings.topic, settings.chat.reply_topics, utc_now)
        self.publisher = KafkaPublisher(settings.kafka, self.metrics)
        self._threads = WatchedThreads(self.health.watch_thread)
        self._relays = WatchedThreads(self.health.watch_thread)
        self._relays_stop = threading.Event()

    def close(self) -> None:
        """Close the connections."""
        self.host.close()
        self._client.close()

    def run(self, roles: Sequence[RoleName], stop: threading.Event) -> None:
        """Run roles until `stop` is set; then finish what is under way and close everything."""
        with ExitStack() as stack:
            stack.callback(self.close)
            topics = [topic for role in roles for topic in topics_of(role)]
            prepare_servers(self.settings, self.store, topics, stop)
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
            self._threads.join()
            # The relay stops last, so that it publishes what the worker stores while it stops.
            self._relays_stop.set()
            self._relays.join()
        log.info("app.stopped")

    def _start_answers(self, stop: threading.Event, stack: ExitStack) -> None:
        handler = AnswersHandler(
            source=self.answers,
            datasets=self.datasets,
            registry=self.dataset_registry,
            events=self.events,
            confirm=self.publisher.confirm,
            metrics=self.metrics,
            base=self.training.current_model,
            clock=utc_now,
        )
        self._start_lanes("answers", ANSWERS_UPDATED, handler, stop, count=_LANES)

    def _start_training(self, stop: threading.Event, stack: ExitStack) -> None:
        worker = self._worker(stack)
        handler = TrainingHandler(self.ledger, self.training, worker.wake)
        self._start_lanes(
            "training", TRAIN_REQUESTED, handler, stop, batch=INGEST_BATCH, limit=TRAINING_LIMIT
        )
        self._threads.start("worker", lambda: worker.run(stop))
        relay = stack.enter_context(
            open_relay(
                settings=self.settings,
                store=self.store,
                source=SOURCE,
                owner=self.owner,
                encode=self.events.stored,
                metrics=self.metrics,
                clock=utc_now,
            )
        )
        self._relays.start("relay", lambda: relay.run(self._relays_stop))

    def _worker(self, stack: ExitStack) -> TrainingWorker:
        stages = StageClock(self.metrics)
        settings, num_ctx = self.settings, self.settings.chat.num_ctx
        quantization = self.training.quantization
        runner = stack.enter_context(TrainingProcess(silence_s=settings.worker.silence_s))
        forms = FormMaker(
            self.host, runner, settings.host, quantization, num_ctx=num_ctx, clock=utc_now
        )
        prover = Prover(
            host=self.host,
            forms=forms,
            idle_host=IdleHost(self.host, settings.evaluation, num_ctx),
            settings=settings.evaluation,
            quantization=quantization,
            num_ctx=num_ctx,
        )
        trainer = OllamaTrainer(
            datasets=self.datasets,
            registry=self.registry,
            host=self.host,
            runner=runner,
            config=self.training,
            find_base=lambda key: settings.base(self.training, key),
            forms=forms,
            prover=prover,
            adapters=self._adapters,
            clock=utc_now,
            on_stage=stages.begin,
            num_ctx=num_ctx,
        )
        return TrainingWorker(
            owner=self.owner,
            ledger=self.ledger,
            trainer=trainer,
            stages=stages,
            settings=settings.worker,
            metrics=self.metrics,
            prune=self._prune,
        )

    def _prune(self, elder_id: str) -> Removal | None:
        if not self.settings.retention.after_each_job:
            return None
        return self.retention.prune(elder_id, is_thorough=False)

    def _start_chat(self, stop: threading.Event, stack: ExitStack) -> None:
        settings = self.settings
        lost = LostModels(self.registry, self.ledger, self.host)
        executor = ChatExecutor(
            make_store=lambda: ChatStore(settings.mongodb),
            make_service=lambda store: ChatService(
                store, settings.model_host(), settings.chat, on_lost=lost.request_form
            ),
            publisher=self.publisher,
            replies=self.replies,
            settings=settings.chat,
            metrics=self.metrics,
            group=settings.kafka.group("chat"),
            clock=utc_now,
            max_bytes=settings.max_message_bytes,
        )
        self._start_loop("chat", CHAT_REQUESTS, executor, stop, settings.chat.concurrency * 4)

    def _start_models(self, stop: threading.Event, stack: ExitStack) -> None:
        handler = ModelsHandler(
            manager=self.manager,
            ledger=self.ledger,
            datasets=self.datasets,
            dataset_registry=self.dataset_registry,
            replies=self.replies,
            confirm=self.publisher.confirm,
            base=self.training.current_model,
            blamed=lambda elder_id: attributed_failures(
                self.host, elder_id, self.settings.chat.num_ctx
            ),
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
            topic=topic.name,
            group=self.settings.kafka.group(role),
            handler=handler,
            confirm=self.publisher.confirm,
            metrics=self.metrics,
            stop=stop,
            max_bytes=self.settings.max_message_bytes,
        )
        lanes = Lanes(role, dispatcher.process, count=count, batch=batch)
        self._start_loop(role, topic, lanes, stop, limit)

    def _start_loop(
        self, role: str, topic: Topic, executor: Executor, stop: threading.Event, limit: int
    ) -> None:
        loop = ConsumerLoop(
            role=role,
            topics=[self.settings.topic(topic.name)],
            settings=self.settings.kafka,
            executor=executor,
            metrics=self.metrics,
            limit=limit,
        )
        self.health.watch_loop(
            role, lambda: loop.last_poll, lambda: loop.assigned, lambda: loop.refused
        )
        for thread in executor.threads:
            self.health.watch_thread(thread)
        self._threads.start(role, lambda: loop.run(stop))

    def _ping_store(self) -> None:
        with store_errors():
            self._client.admin.command("ping")
