"""One seed, one history: workers, relays, a queue's readers and an operator over one ledger.

All of them run in one thread, in an order drawn from the seed. Wherever one of them speaks to
the store, the draw may crash its process, hide the store, let time pass, or let others do whole
steps of their own before it goes on: so anyone can be held up between a look and a write, past
the end of a lease too. Afterwards the faults stop and everything must come to its end.

What this does not show: of those who are held up, the last is the first to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from pymongo.errors import AutoReconnect

from pipeline.ledger.leases import Lease
from pipeline.ledger.new_job import NewJob
from pipeline.storage.indexes import ensure_indexes
from schemas.errors import StoreUnavailable
from schemas.events import ErrorBody
from tests.fakes.clock import FalseClock
from tests.fakes.mongo import FakeStore, Moment, nothing_happens
from tests.ledger.model import LedgerModel, told_by
from tests.ledger.processes import FAIR_S, LEASE_S, Operator, Process, Publisher, Reader, Worker
from tests.ledger.witness import Crash, Witness, new_request

MAX_FAILURES = 3
MAX_LOST_LEASES = 12
STEPS = 45
DEPTH = 3
_FAILED = ErrorBody(code="training_failed", message="it failed")


class AtWork:
    """While it is open, every write must be made under this lease."""

    def __init__(self, world: Simulation, lease: Lease | None) -> None:
        self._stack = world.leases
        self._lease = lease

    def __enter__(self) -> None:
        self._stack.append(self._lease)

    def __exit__(self, *exc: object) -> None:
        self._stack.pop()


class Simulation:
    """A history and what it needs; `run` raises AssertionError where a promise is broken."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        self.clock = FalseClock()
        self.store = FakeStore(self.clock, order=Random(seed + 1))
        ensure_indexes(self.store.as_store(), dedup_hours=1)
        relays = self.draw.choice([1, 1, 2])
        self.witness = Witness(self.clock, is_one_relay=relays == 1)
        self.witness.lease_at_work = lambda: self.leases[-1]
        self.store.on_change = self.witness.change
        self.leases: list[Lease | None] = [None]
        self.log = [self._request(n) for n in range(1, self.draw.randint(3, 8))]
        self.committed, self.epoch = 0, 0
        self.is_calm = False
        self.workers = [Worker(self, f"w{n}") for n in range(self.draw.randint(2, 4))]
        self.relays = [Publisher(self, f"relay{n}") for n in range(relays)]
        self.reader = Reader(self, "reader")
        others = [self.reader, Reader(self, "reader2"), Operator(self, "operator"), *self.relays]
        self._turns: list[tuple[Process, Callable[[], None]]] = [
            *((p, p.step) for p in [*self.workers, *self.workers, *others]),
            *((w, w.beat) for w in self.workers),
        ]
        self._running: list[tuple[Process, Callable[[], None]]] = []
        self._intruder = self._turns[0]
        # Some histories are wild, some nearly quiet.
        self._wildness = self.draw.choice([0.2, 1.0, 2.5])

    def _request(self, number: int) -> NewJob:
        return new_request(
            number,
            self.draw.choice(["LXM", "LXM", "ZJG", "WSF"]),
            second=self.draw.randint(0, 1),
            job_id=self.draw.choice([None, None, "mine"]),
        )

    def at_work(self, lease: Lease | None) -> AtWork:
        """Hold the witness to a lease."""
        return AtWork(self, lease)

    def run(self) -> None:
        """Live through the history, then through a calm in which all must end."""
        self.store.on_moment = self.interrupt
        for _ in range(STEPS):
            self._take(self.draw.choice(self._turns))
            if self.draw.random() < 0.15:
                self.clock.advance(self.draw.choice([0.5, 5, LEASE_S + 1]))
        self.store.on_moment = nothing_happens
        self.is_calm = True
        for _ in range(30):
            self.clock.advance(LEASE_S + 1)
            for process in [self.reader, *self.workers, *self.workers, *self.relays]:
                self._take((process, process.step))
            if self.committed == len(self.log) and self._is_all_over():
                break
        assert len(self.witness.jobs) == len(self.log), "a request was lost"
        self.witness.check_all_told()

    def whose_turn(self) -> set[str]:
        """The jobs of which a claim takes one now, by the plain rule."""
        model = LedgerModel(LEASE_S, FAIR_S)
        model.jobs = {job_id: told_by(job) for job_id, job in self.witness.jobs.items()}
        return model.claimable(self.clock.now)

    def _is_all_over(self) -> bool:
        return not any(
            j["status"] in ("queued", "running") or j["has_pending"]
            for j in self.witness.jobs.values()
        )

    def _take(self, turn: tuple[Process, Callable[[], None]]) -> None:
        process, step = turn
        self._running.append(turn)
        try:
            with self.at_work(None):
                step()
        except (StoreUnavailable, AutoReconnect):
            pass  # The store is away, or the broker: it tries again when its next turn comes.
        except Crash:
            process.crash()
        finally:
            self._running.pop()

    def interrupt(self, moment: Moment) -> None:
        """Draw what happens between two steps of whoever is at work."""
        chance = self.draw.random() / self._wildness
        if chance < 0.01:
            raise Crash
        if chance < 0.03:
            raise AutoReconnect("the store is away")
        if chance < 0.05:
            self.clock.advance(self.draw.choice([0.5, LEASE_S + 1]))
        if chance < 0.15:
            self._let_others_go_first()

    def _let_others_go_first(self) -> None:
        if len(self._running) >= DEPTH:
            return
        process, _ = self._running[-1]
        lives = process.lives
        for _ in range(self.draw.randint(1, 3)):
            # The same one goes on often: what it began it may end while others are held up.
            if self.draw.random() < 0.5:
                self._intruder = self.draw.choice(self._turns)
            if self._intruder not in self._running:
                self._take(self._intruder)
        if process.lives != lives:
            raise Crash  # Its heart died, and with it its hand.
