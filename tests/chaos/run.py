"""A run: some traffic and one fault among two members of each group; then all is looked over.

The members live on from run to run, as far as the faults let them: a session has one pair, one
database and one set of topics, and each of its runs has elders of its own.
"""

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
from types import TracebackType
from typing import Self

import psutil
from pymongo import MongoClient

from config.kafka import KafkaSettings
from config.settings import MongoSettings, Settings
from consumers.topics import apply_topics
from pipeline.files import write_file
from pipeline.store import Document, Store, ensure_indexes
from schemas.base import Frozen
from schemas.topics import CATALOGUE
from tests.chaos.checker import Verdict, check, is_settled
from tests.chaos.evidence import Case, Remains
from tests.chaos.faults import NONE, Fault
from tests.chaos.points import VARIABLE, Plan
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.workload import Operation, Upstream, make_elders, store_answers
from tests.chaos.world import World

LEASE_S = 2.0
PARTITIONS = 2
LIMIT_S = 150.0
_WATCH_S = 0.05
_ASLEEP_S = LEASE_S + 2.0
_AROUND_S = 3.0
_MOST_RESTARTS = 1000
_LAST_WORDS = 8


class RunResult(Frozen):
    """What became of a run."""

    fault: str
    seed: int
    struck: int
    restarts: int
    seconds: float
    verdict: Verdict
    last_words: tuple[str, ...] = ()


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

    @property
    def pid(self) -> int:
        """The process id of its present life."""
        return self._process.pid

    def last_words(self) -> list[str]:
        """Give the end of what its present life, or its last, has logged."""
        path = self._log / f"{self._name}-{self.restarts}.log"
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_WORDS:]

    def watch(self) -> None:
        """Start it again when it is dead, and wake it when it has slept long enough."""
        if self._process.poll() is not None:
            if self._wanted and self.restarts < _MOST_RESTARTS:
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


class Session:
    """Two members and their topics, database and proxies, while the context is open."""

    def __init__(self, world: World, name: str, group_protocol: str) -> None:
        self._world = world
        self._name = name
        self._protocol = group_protocol
        self._folder = world.folder / name
        self._plan = self._folder / "plan.json"
        self._members: list[Member] = []
        self._stack = ExitStack()
        self._stop_watching = threading.Event()

    def __enter__(self) -> Self:
        self._folder.mkdir()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        self._mongodb = self._stack.enter_context(Proxy(self._world.mongodb_port))
        self._ollama = self._stack.enter_context(Proxy(self._world.ollama_port))
        client: MongoClient[Document] = MongoClient(self._world.servers.mongodb_uri, tz_aware=True)
        self._stack.callback(client.close)
        self._store: Store = client[self._name]
        self._stack.callback(client.drop_database, self._name)
        self.settings = self._settings()
        ensure_indexes(self._store, 1)
        apply_topics(self.settings, PARTITIONS)
        self._evidence = Remains(self._world.servers, self.settings, self._store)
        self._stack.callback(self._evidence.close)
        self._write_plan(Plan(fault=NONE, nth=1, fuses=self._folder))
        self._upstream = Upstream(self._world.servers.kafka_bootstrap_servers, self._name)
        for name in ("one", "two"):
            self._members.append(self._member(name))
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        self._stack.callback(watcher.join)
        self._stack.callback(self._stop_watching.set)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for member in self._members:
            member.leave()
        self._stack.close()

    @property
    def pids(self) -> list[int]:
        """The members' processes."""
        return [member.pid for member in self._members]

    def run(self, fault: Fault, seed: int) -> RunResult:
        """Send a run's traffic, do its fault, wait until all is settled and judge it."""
        begun = time.monotonic()
        chance = random.Random(seed)
        fuses = self._folder / f"fuses-{seed}"
        fuses.mkdir()
        nth = chance.randint(1, fault.up_to)
        self._write_plan(Plan(fault=fault, nth=nth, fuses=fuses))
        before = self._restarts()
        elders = make_elders(f"r{seed:x}")
        store_answers(self._store, elders)
        operations: list[Operation] = []
        case = Case(self._evidence, elders, operations)
        nuisance = threading.Thread(target=self._disturb, args=(fault, chance, fuses))
        if fault.during == "training":
            nuisance.start()
        self._upstream.requests(elders, operations, chance)
        settled = self._wait(lambda: is_settled(case))
        if fault.during == "chat":
            nuisance.start()
        self._upstream.chats(elders, operations, go_on=nuisance.is_alive)
        nuisance.join()
        settled = self._wait(lambda: is_settled(case)) and settled
        verdict = check(case, settled=settled)
        return RunResult(
            fault=fault.name,
            seed=seed,
            struck=len(list(fuses.iterdir())),
            restarts=self._restarts() - before,
            seconds=time.monotonic() - begun,
            verdict=verdict,
            last_words=self._last_words() if verdict.faults else (),
        )

    def _last_words(self) -> tuple[str, ...]:
        return tuple(line for member in self._members for line in member.last_words())

    def _write_plan(self, plan: Plan) -> None:
        write_file(self._plan, plan.model_dump_json().encode())

    def _restarts(self) -> int:
        return sum(member.restarts for member in self._members)

    def _member(self, name: str) -> Member:
        return Member(name, self._environment(), self._folder)

    def _watch(self) -> None:
        while not self._stop_watching.wait(_WATCH_S):
            for member in self._members:
                member.watch()

    def _wait(self, is_so: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + LIMIT_S
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _disturb(self, fault: Fault, chance: random.Random, fuses: Path) -> None:
        """Do what the fault does around the service, a moment after the traffic began."""
        around = fault.around
        if around == "none":
            return
        time.sleep(chance.uniform(0.2, 3.0 if fault.during == "training" else 0.5))
        modes: dict[str, tuple[Proxy, Mode]] = {
            "mongodb_gone": (self._mongodb, "gone"),
            "mongodb_hangs": (self._mongodb, "hang"),
            "ollama_gone": (self._ollama, "gone"),
            "ollama_hangs": (self._ollama, "hang"),
            "ollama_slow": (self._ollama, "slow"),
            "ollama_500": (self._ollama, "500"),
        }
        if around in modes:
            proxy, mode = modes[around]
            proxy.set_mode(mode)
            time.sleep(chance.uniform(1.0, 2 * _AROUND_S))
            proxy.set_mode("pass")
        elif around == "rebalance":
            third = self._member("three")
            time.sleep(2 * _AROUND_S)
            third.leave()
        elif around == "coordinator_moved":
            group = self.settings.kafka.group(chance.choice(("training", "chat")))
            self._world.bounce(self._world.coordinator(group), hard=True, away_s=_AROUND_S)
        else:
            node = chance.randint(1, 3)
            self._world.bounce(node, hard=around == "broker_hard", away_s=1.0)
        (fuses / "around").touch()

    def _environment(self) -> dict[str, str]:
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": self._world.servers.kafka_bootstrap_servers,
            "MONGODB_URI": f"mongodb://127.0.0.1:{self._mongodb.port}/?directConnection=true",
            "MONGODB_DATABASE": self._name,
            "OLLAMA_HOST": f"http://127.0.0.1:{self._ollama.port}",
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
            VARIABLE: str(self._plan),
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
