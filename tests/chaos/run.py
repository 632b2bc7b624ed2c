"""One run: two members of each group, some traffic, one fault; then all is looked over."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
from pymongo import MongoClient

from config.kafka import KafkaSettings
from config.settings import MongoSettings, Settings
from consumers.topics import apply_topics
from pipeline.store import Document, Store, ensure_indexes
from schemas.base import Frozen
from schemas.topics import CATALOGUE
from tests.chaos.checker import Evidence, Verdict, check, is_settled
from tests.chaos.faults import Fault
from tests.chaos.points import VARIABLE, Plan
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.workload import Upstream, make_elders, store_answers
from tests.chaos.world import World

LEASE_S = 2.0
PARTITIONS = 2
LIMIT_S = 150.0
_WATCH_S = 0.05
_ASLEEP_S = LEASE_S + 2.0
_AROUND_S = 3.0


class RunResult(Frozen):
    """What became of a run."""

    fault: str
    seed: int
    struck: int
    restarts: int
    seconds: float
    verdict: Verdict


class Member:
    """A `modelserver run` in a process of its own, started again whenever it ends."""

    def __init__(self, name: str, environment: dict[str, str], log: Path) -> None:
        self._name = name
        self._environment = environment
        self._log = log
        self.restarts = -1
        self._asleep_since: float | None = None
        self._wanted = True
        self._start()

    def _start(self) -> None:
        self.restarts += 1
        path = self._log / f"{self._name}-{self.restarts}.log"
        with path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.service", "run"],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def watch(self) -> None:
        """Start it again when it is dead, and wake it when it has slept long enough."""
        if self._process.poll() is not None:
            if self._wanted:
                self._start()
            return
        try:
            asleep = psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return
        now = time.monotonic()
        if not asleep:
            self._asleep_since = None
        elif self._asleep_since is None:
            self._asleep_since = now
        elif now - self._asleep_since > _ASLEEP_S:
            os.kill(self._process.pid, signal.SIGCONT)

    def leave(self) -> None:
        """Ask it to leave; insist after a while."""
        self._wanted = False
        for number, limit_s in ((signal.SIGTERM, 40.0), (signal.SIGKILL, 10.0)):
            if self._process.poll() is None:
                os.kill(self._process.pid, signal.SIGCONT)
                os.kill(self._process.pid, number)
                try:
                    self._process.wait(limit_s)
                except subprocess.TimeoutExpired:
                    continue


class Run:
    """One run under one seed."""

    def __init__(self, world: World, fault: Fault, seed: int, group_protocol: str) -> None:
        self._world = world
        self._fault = fault
        self._seed = seed
        self._random = random.Random(seed)
        self._name = f"c{seed:x}"
        self._folder = world.folder / "runs" / self._name
        self._protocol = group_protocol
        self._members: list[Member] = []
        self._stop_watching = threading.Event()

    def go(self) -> RunResult:
        """Do it and judge it."""
        begun = time.monotonic()
        (self._folder / "fuses").mkdir(parents=True)
        with ExitStack() as stack:
            mongodb = stack.enter_context(Proxy(self._world.mongodb_port))
            ollama = stack.enter_context(Proxy(self._world.ollama_port))
            client: MongoClient[Document] = MongoClient(
                self._world.servers.mongodb_uri, tz_aware=True
            )
            stack.callback(client.close)
            store = client[self._name]
            stack.callback(client.drop_database, self._name)
            settings = self._settings()
            ensure_indexes(store, 1)
            apply_topics(settings, PARTITIONS)
            verdict = self._play(store, settings, mongodb, ollama)
        return RunResult(
            fault=self._fault.name,
            seed=self._seed,
            struck=len(list((self._folder / "fuses").iterdir())),
            restarts=sum(member.restarts for member in self._members),
            seconds=time.monotonic() - begun,
            verdict=verdict,
        )

    def _play(self, store: Store, settings: Settings, mongodb: Proxy, ollama: Proxy) -> Verdict:
        elders = make_elders(self._name)
        store_answers(store, elders)
        upstream = Upstream(self._world.servers.kafka_bootstrap_servers, self._name, self._seed)
        evidence = Evidence(self._world.servers, settings, store, elders, upstream.operations)
        watcher = threading.Thread(target=self._watch, daemon=True)
        try:
            environment = self._environment(mongodb, ollama)
            log = self._folder
            self._members = [Member(name, environment, log) for name in ("one", "two")]
            watcher.start()
            nuisance = threading.Thread(
                target=self._disturb, args=(mongodb, ollama, environment, settings)
            )
            nuisance.start()
            upstream.requests(elders)
            settled = self._wait(lambda: is_settled(evidence))
            upstream.chats(elders)
            nuisance.join()
            settled = self._wait(lambda: is_settled(evidence)) and settled
        finally:
            self._stop_watching.set()
            if watcher.is_alive():
                watcher.join()
            for member in self._members:
                member.leave()
        return check(evidence, settled=settled)

    def _watch(self) -> None:
        while not self._stop_watching.wait(_WATCH_S):
            for member in self._members:
                member.watch()

    def _wait(self, is_so: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + LIMIT_S
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _disturb(
        self, mongodb: Proxy, ollama: Proxy, environment: dict[str, str], settings: Settings
    ) -> None:
        """Do what the fault does around the service, a moment after the traffic began."""
        around = self._fault.around
        time.sleep(self._random.uniform(0.5, 6.0) if around != "none" else 0)
        modes: dict[str, tuple[Proxy, Mode]] = {
            "mongodb_gone": (mongodb, "gone"),
            "mongodb_hangs": (mongodb, "hang"),
            "ollama_gone": (ollama, "gone"),
            "ollama_hangs": (ollama, "hang"),
            "ollama_slow": (ollama, "slow"),
            "ollama_500": (ollama, "500"),
        }
        if around in modes:
            proxy, mode = modes[around]
            proxy.set_mode(mode)
            time.sleep(self._random.uniform(1.0, 2 * _AROUND_S))
            proxy.set_mode("pass")
        elif around == "rebalance":
            third = Member("three", environment, self._folder)
            time.sleep(_AROUND_S)
            third.leave()
        elif around == "coordinator_moved":
            group = settings.kafka.group(self._random.choice(("training", "chat")))
            self._world.bounce(self._world.coordinator(group), hard=True, away_s=_AROUND_S)
        elif around in ("broker_clean", "broker_hard"):
            node = self._random.randint(1, 3)
            self._world.bounce(node, hard=around == "broker_hard", away_s=1.0)

    def _environment(self, mongodb: Proxy, ollama: Proxy) -> dict[str, str]:
        plan = Plan(
            fault=self._fault,
            nth=self._random.randint(1, self._fault.up_to),
            fuses=self._folder / "fuses",
        )
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": self._world.servers.kafka_bootstrap_servers,
            "MONGODB_URI": f"mongodb://127.0.0.1:{mongodb.port}/?directConnection=true",
            "MONGODB_DATABASE": self._name,
            "OLLAMA_HOST": f"http://127.0.0.1:{ollama.port}",
            "MODELSERVER_TOPICS": json.dumps(self._topics()),
            "MODELSERVER_KAFKA__GROUP_PREFIX": self._name,
            "MODELSERVER_KAFKA__GROUP_PROTOCOL": self._protocol,
            "MODELSERVER_KAFKA__SESSION_TIMEOUT_MS": "6000",
            "MODELSERVER_KAFKA__DELIVERY_TIMEOUT_MS": "30000",
            "MODELSERVER_MONGODB__TIMEOUT_S": "1",
            "MODELSERVER_OLLAMA__TIMEOUT_S": "10",
            "MODELSERVER_WORKER__LEASE_S": str(LEASE_S),
            "MODELSERVER_WORKER__HEARTBEAT_S": "0.3",
            "MODELSERVER_WORKER__POLL_S": "0.2",
            "MODELSERVER_WORKER__RETRY_BASE_S": "0.2",
            "MODELSERVER_WORKER__PROGRESS_INTERVAL_S": "0.1",
            "MODELSERVER_EVALUATION__QUESTIONS": "1",
            "MODELSERVER_EVALUATION__THRESHOLD": "0",
            "MODELSERVER_CHAT__MAX_TOKENS": "4",
            "MODELSERVER_DATA_DIR": str(self._folder / "data"),
            "MODELSERVER_MODEL_DIR": str(self._world.folder / "models"),
            "MODELSERVER_TRAINING_CONFIG": str(self._world.training_config),
            "MODELSERVER_OPS__PORT": "0",
            "MODELSERVER_LOG__FILE": "false",
            "OMP_NUM_THREADS": "1",
            VARIABLE: plan.model_dump_json(),
        }
        return {**os.environ, **settings}

    def _topics(self) -> dict[str, str]:
        return {topic.name: f"{self._name}.{topic.name}" for topic in CATALOGUE}

    def _settings(self) -> Settings:
        """The settings by which the driver and the checker look at the run."""
        return Settings(
            kafka=KafkaSettings(
                bootstrap_servers=self._world.servers.kafka_bootstrap_servers,
                group_prefix=self._name,
            ),
            mongodb=MongoSettings(uri=self._world.servers.mongodb_uri, database=self._name),
            topics=self._topics(),
            data_dir=self._folder / "data",
        )
