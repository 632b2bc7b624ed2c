"""A run: some traffic and one fault among two members of each group; then all is looked over.

The members live on from run to run, as far as the faults let them: a session has one pair, one
database and one set of topics, and each of its runs has elders of its own.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pymongo import MongoClient

from config.kafka import KafkaSettings
from config.settings import MongoSettings, Settings
from consumers.operations.topics import apply_topics
from pipeline.storage.files import write_file
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Document, Store
from schemas.base import Frozen
from schemas.topics import CATALOGUE
from tests.chaos.checker import Verdict, check, is_settled
from tests.chaos.evidence import Case, Remains
from tests.chaos.faults import AGAIN, NONE, Fault
from tests.chaos.injector import Plan
from tests.chaos.member import Member
from tests.chaos.points import VARIABLE
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.workload import Operation, Upstream, make_elders, store_answers
from tests.chaos.world import World

LEASE_S = 2.0
SESSION_TIMEOUT_S = 6.0
OLLAMA_TIMEOUT_S = 4.0
PARTITIONS = 6
LIMIT_S = 150.0
AGAIN_S = 40.0
_WATCH_S = 0.05
# Past the job's lease, past the relay's turn (5 s), and no member of the group any more.
_ASLEEP_S = SESSION_TIMEOUT_S + 2.0
_AWAY_S = 3.0
_JOIN_LIMIT_S = 60.0
_GUEST_STAYS_S = 2.0
_LETHAL = frozenset({"kill", "term"})


class RunResult(Frozen):
    """What became of a run."""

    fault: str
    seed: int
    struck: int
    restarts: int
    seconds: float
    verdict: Verdict
    last_words: tuple[str, ...] = ()


class Nuisance(threading.Thread):
    """Does a fault around the service; one that could not be done is no run."""

    def __init__(self, disturb: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._disturb = disturb
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it, and keep what went wrong."""
        try:
            self._disturb()
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Wait for the end; raises what went wrong."""
        self.join()
        if self._error is not None:
            raise self._error


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
        self._cases: list[Case] = []
        self._deadly: list[Path] = []

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
        self._evidence = Remains(
            self._world.servers, self.settings, self._store, self._world.base_gguf
        )
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
        chance, moments = random.Random(seed), random.Random(f"{seed}/around")
        fuses = self._folder / f"fuses-{seed}"
        fuses.mkdir()
        if fault.action in _LETHAL:
            self._deadly.append(fuses)
        nth = chance.randint(1, fault.up_to)
        self._write_plan(Plan(fault=fault, nth=nth, fuses=fuses))
        before = self._restarts()
        elders = make_elders(f"r{seed:x}")
        store_answers(self._store, elders)
        operations: list[Operation] = []
        case = Case(self._evidence, elders, operations)
        nuisance = Nuisance(lambda: self._disturb(fault, moments, fuses))
        if fault.during == "training":
            nuisance.start()
        self._upstream.requests(elders, operations, chance)
        settled = self._wait(fault, lambda: is_settled(case))
        if fault.during == "chat":
            nuisance.start()
        self._upstream.chats(elders, operations, go_on=nuisance.is_alive)
        nuisance.finish()
        settled = self._wait(fault, lambda: is_settled(case)) and settled
        verdict = check(case, settled=settled)
        if died := self._died_by_themselves():
            said = f"members died by themselves: {died}"
            verdict = verdict.model_copy(update={"other": (*verdict.other, said)})
        self._cases.append(case)
        return RunResult(
            fault=fault.name,
            seed=seed,
            struck=len(list(fuses.iterdir())),
            restarts=self._restarts() - before,
            seconds=time.monotonic() - begun,
            verdict=verdict,
            last_words=self._last_words() if verdict.faults else (),
        )

    def look_again(self) -> RunResult:
        """Judge all runs once more, when whoever slept is awake and what was late has come."""
        begun = time.monotonic()
        self._write_plan(Plan(fault=NONE, nth=1, fuses=self._folder))
        time.sleep(_ASLEEP_S)
        faults = [f for case in self._cases for f in self._judge(case).faults]
        return RunResult(
            fault=AGAIN.name,
            seed=0,
            struck=0,
            restarts=0,
            seconds=time.monotonic() - begun,
            verdict=Verdict(other=tuple(faults)),
        )

    def _judge(self, case: Case) -> Verdict:
        return check(case, settled=self._wait(NONE, lambda: is_settled(case)))

    def _last_words(self) -> tuple[str, ...]:
        return tuple(line for member in self._members for line in member.last_words())

    def _write_plan(self, plan: Plan) -> None:
        write_file(self._plan, plan.model_dump_json().encode())

    def _restarts(self) -> int:
        return sum(member.restarts for member in self._members)

    def kill(self, number: int) -> None:
        """Kill a member's process, as `kill -9` does; it starts again."""
        self._members[number].kill()

    def _died_by_themselves(self) -> int:
        """How many members ended that nobody had killed, since the session began."""
        struck = sum(len(list(fuses.iterdir())) for fuses in self._deadly)
        killed = sum(member.killed for member in self._members)
        return max(0, self._restarts() - struck - killed)

    def _member(self, name: str) -> Member:
        return Member(name, self._environment(), self._folder, _ASLEEP_S)

    def _watch(self) -> None:
        while not self._stop_watching.wait(_WATCH_S):
            for member in self._members:
                member.watch()

    def _wait(self, fault: Fault, is_so: Callable[[], bool]) -> bool:
        # A fault may cost time, and nothing else: each death that of a new start.
        deadline = time.monotonic() + LIMIT_S + fault.times * AGAIN_S
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
            # What hangs does so for longer than anybody waits for it.
            shortest_s = OLLAMA_TIMEOUT_S + 1.0 if mode == "hang" else 1.0
            time.sleep(chance.uniform(shortest_s, shortest_s + 5.0))
            proxy.set_mode("pass")
        elif around == "rebalance":
            self._come_and_go(fault.during, hard=chance.random() < 0.5)
        elif around == "killed":
            for _ in range(fault.times):
                chance.choice(self._members).kill(chance)
                time.sleep(chance.uniform(0.0, 3.0))
        elif around == "coordinator_moved":
            group = self.settings.kafka.group(chance.choice(("training", "chat")))
            self._world.bounce(self._world.coordinator(group), hard=True, away_s=_AWAY_S)
        else:
            node = chance.randint(1, 3)
            self._world.bounce(node, hard=around == "broker_hard", away_s=1.0)
        (fuses / "around").touch()

    def _come_and_go(self, role: str, *, hard: bool) -> None:
        """A third member joins, until partitions came to it, and leaves or is killed."""
        third = self._member(f"guest{len(list(self._folder.glob('guest*')))}")
        try:
            deadline = time.monotonic() + _JOIN_LIMIT_S
            while not third.was_given(role):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no partition of {role} came to a third member")
                third.watch()
                time.sleep(_WATCH_S)
            time.sleep(_GUEST_STAYS_S)
        finally:
            third.leave(hard=hard)

    def _environment(self) -> dict[str, str]:
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": self._world.servers.kafka_bootstrap_servers,
            "MONGODB_URI": f"mongodb://127.0.0.1:{self._mongodb.port}/?directConnection=true",
            "MONGODB_DATABASE": self._name,
            "OLLAMA_HOST": f"http://127.0.0.1:{self._ollama.port}",
            "MODELSERVER_TOPICS": json.dumps(self._topics()),
            "MODELSERVER_KAFKA__GROUP_PREFIX": self._name,
            "MODELSERVER_KAFKA__GROUP_PROTOCOL": self._protocol,
            "MODELSERVER_KAFKA__SESSION_TIMEOUT_MS": str(round(SESSION_TIMEOUT_S * 1000)),
            "MODELSERVER_KAFKA__DELIVERY_TIMEOUT_MS": "30000",
            "MODELSERVER_MONGODB__TIMEOUT_S": "1",
            "MODELSERVER_OLLAMA__TIMEOUT_S": str(OLLAMA_TIMEOUT_S),
            "MODELSERVER_WORKER__LEASE_S": str(LEASE_S),
            "MODELSERVER_WORKER__HEARTBEAT_S": "0.3",
            "MODELSERVER_WORKER__POLL_S": "0.2",
            "MODELSERVER_WORKER__RETRY_BASE_S": "0.2",
            "MODELSERVER_WORKER__PROGRESS_INTERVAL_S": "0.1",
            "MODELSERVER_EVALUATION__QUESTIONS": "1",
            "MODELSERVER_EVALUATION__THRESHOLD": "0",
            # Another session's chats go on for as long as its fault does.
            "MODELSERVER_EVALUATION__QUIET_S": "0.2",
            "MODELSERVER_EVALUATION__QUIET_WAIT_S": "1",
            "MODELSERVER_CHAT__MAX_TOKENS": "4",
            "MODELSERVER_DATA_DIR": str(self._folder / "data"),
            "MODELSERVER_MODEL_DIR": str(self._world.folder / "models"),
            "MODELSERVER_TRAINING_CONFIG": str(self._world.training_config),
            "MODELSERVER_OPS__PORT": "0",
            "MODELSERVER_LOG__FILE": "false",
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",  # As in the image.
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
