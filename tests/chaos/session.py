"""A session: two members of each group that play runs, traffic and one fault at a time.

The members live on from run to run as far as the faults let them. A session has one pair of
members, one database and one set of topics; each of its runs has elders of its own.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pymongo import MongoClient

from consumers.operations.topics import apply_topics
from pipeline.storage.files import write_file
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Document, Store
from tests.chaos.checker import Verdict, check, is_settled
from tests.chaos.configuration import Configuration
from tests.chaos.disturbance import ASLEEP_S, WATCH_S, Disturbance, Surroundings
from tests.chaos.evidence import Case, Remains
from tests.chaos.faults import AGAIN, NONE, Fault
from tests.chaos.injector import Plan
from tests.chaos.member import Member
from tests.chaos.proxy import Proxy
from tests.chaos.result import RunResult
from tests.chaos.workload import Upstream, make_elders, store_answers
from tests.chaos.world import World

PARTITIONS = 6
LIMIT_S = 150.0
AGAIN_S = 40.0
_LETHAL = frozenset({"kill", "term"})


class Session:
    """Two members and their topics, database and proxies, while the context is open."""

    def __init__(self, world: World, name: str, group_protocol: str) -> None:
        self._world = world
        self._name = name
        self._protocol = group_protocol
        self._members: list[Member] = []
        self._stack = ExitStack()
        self._stop_watching = threading.Event()
        self._cases: list[Case] = []
        self._deadly: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        mongodb = self._stack.enter_context(Proxy(self._world.mongodb_port))
        ollama = self._stack.enter_context(Proxy(self._world.ollama_port))
        self._configuration = Configuration(
            self._world,
            self._name,
            self._protocol,
            mongodb_port=mongodb.port,
            ollama_port=ollama.port,
        )
        self._folder = self._configuration.folder
        self._folder.mkdir()
        self.settings = self._configuration.settings()
        self._open_store()
        self._evidence = Remains(
            self._world.servers, self.settings, self._store, self._world.base_gguf
        )
        self._stack.callback(self._evidence.close)
        self._upstream = Upstream(self._world.servers.kafka_bootstrap_servers, self._name)
        self._start_members()
        self._surroundings = Surroundings(
            self._world,
            self.settings,
            mongodb=mongodb,
            ollama=ollama,
            members=self._members,
            make_member=self._member,
        )

    def _open_store(self) -> None:
        client: MongoClient[Document] = MongoClient(self._world.servers.mongodb_uri, tz_aware=True)
        self._stack.callback(client.close)
        self._store: Store = client[self._name]
        self._stack.callback(client.drop_database, self._name)
        ensure_indexes(self._store, 1)
        apply_topics(self.settings, PARTITIONS)

    def _start_members(self) -> None:
        self._write_plan(Plan(fault=NONE, nth=1, fuses=self._folder))
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
        """The process ids of the members."""
        return [member.pid for member in self._members]

    def run(self, fault: Fault, seed: int) -> RunResult:
        """Send a run's traffic, do its fault, wait until all is settled and judge it."""
        began = time.monotonic()
        chance, moments = random.Random(seed), random.Random(f"{seed}/around")
        fuses = self._lay_fuses(fault, seed, nth=chance.randint(1, fault.up_to))
        before = self._restarts()
        case = self._open_case(seed)
        disturbance = Disturbance(lambda: self._surroundings.disturb(fault, moments, fuses))

        # First the trainings, with the fault among them if that is its time.
        if fault.during == "training":
            disturbance.start()
        self._upstream.requests(case.elders, case.operations, chance)
        settled = self._wait(fault, lambda: is_settled(case))

        # Then the chats with the models, for as long as the fault goes on.
        if fault.during == "chat":
            disturbance.start()
        self._upstream.chats(case.elders, case.operations, go_on=disturbance.is_alive)
        disturbance.finish()
        settled = self._wait(fault, lambda: is_settled(case)) and settled

        verdict = self._and_the_dead(check(case, settled=settled))
        self._cases.append(case)
        return RunResult(
            fault=fault.name,
            seed=seed,
            struck=len(list(fuses.iterdir())),
            restarts=self._restarts() - before,
            seconds=time.monotonic() - began,
            verdict=verdict,
            last_words=self._last_words() if verdict.faults else (),
        )

    def _lay_fuses(self, fault: Fault, seed: int, *, nth: int) -> Path:
        """Write the plan of a run; return the folder in which each strike leaves a file."""
        fuses = self._folder / f"fuses-{seed}"
        fuses.mkdir()
        if fault.action in _LETHAL:
            self._deadly.append(fuses)
        self._write_plan(Plan(fault=fault, nth=nth, fuses=fuses))
        return fuses

    def _open_case(self, seed: int) -> Case:
        elders = make_elders(f"r{seed:x}")
        store_answers(self._store, elders)
        return Case(self._evidence, elders, [])

    def _and_the_dead(self, verdict: Verdict) -> Verdict:
        """Add to a verdict the members that ended although nobody killed them."""
        died = self._died_by_themselves()
        if not died:
            return verdict
        sentence = f"members died by themselves: {died}"
        return verdict.model_copy(update={"other": (*verdict.other, sentence)})

    def look_again(self) -> RunResult:
        """Judge all runs once more, after stopped processes were woken and late events came."""
        began = time.monotonic()
        self._write_plan(Plan(fault=NONE, nth=1, fuses=self._folder))
        time.sleep(ASLEEP_S)
        faults = [f for case in self._cases for f in self._judge(case).faults]
        return RunResult(
            fault=AGAIN.name,
            seed=0,
            struck=0,
            restarts=0,
            seconds=time.monotonic() - began,
            verdict=Verdict(other=tuple(faults)),
        )

    def _judge(self, case: Case) -> Verdict:
        return check(case, settled=self._wait(NONE, lambda: is_settled(case)))

    def _last_words(self) -> tuple[str, ...]:
        return tuple(line for member in self._members for line in member.last_words())

    def _write_plan(self, plan: Plan) -> None:
        write_file(self._configuration.plan, plan.model_dump_json().encode())

    def _restarts(self) -> int:
        return sum(member.restarts for member in self._members)

    def kill(self, number: int) -> None:
        """Kill a member's process, as `kill -9` does; it starts again."""
        self._members[number].kill()

    def _died_by_themselves(self) -> int:
        """Count the members that ended since the session began although nobody killed them."""
        struck = sum(len(list(fuses.iterdir())) for fuses in self._deadly)
        killed = sum(member.killed for member in self._members)
        return max(0, self._restarts() - struck - killed)

    def _member(self, name: str) -> Member:
        return Member(name, self._configuration.environment(), self._folder, ASLEEP_S)

    def _watch(self) -> None:
        while not self._stop_watching.wait(WATCH_S):
            for member in self._members:
                member.watch()

    def _wait(self, fault: Fault, is_so: Callable[[], bool]) -> bool:
        # A fault may cost time and nothing else; each death costs a new start.
        deadline = time.monotonic() + LIMIT_S + fault.times * AGAIN_S
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True
