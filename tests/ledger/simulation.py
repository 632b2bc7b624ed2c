"""One seed, one history: workers, relays, a queue's readers and an operator over one ledger.

All of them run in one thread, in an order drawn from the seed. Wherever one of them speaks to
the store, the draw may crash its process, hide the store, let time pass, or let others do whole
steps of their own before it goes on: so anyone can be held up between a look and a write, past
the end of a lease too. Afterwards the faults stop and everything must come to its end.

What this does not show: of those who are held up, the last is the first to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from random import Random

from pymongo.errors import AutoReconnect

from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.new_job import NewJob
from pipeline.ledger.outbox import Announcer, Outbox
from pipeline.ledger.progress import ProgressState
from pipeline.storage.indexes import ensure_indexes
from schemas.errors import JobAlreadyEnded, JobCancelled, LeaseLost, StoreUnavailable
from schemas.events import ErrorBody, Status
from tests.fakes.clock import FalseClock
from tests.fakes.jobs import make_ready
from tests.fakes.mongo import FakeStore, Moment, nothing_happens
from tests.ledger.model import LedgerModel, told_by
from tests.ledger.witness import Crash, Witness, new_request

LEASE_S = 30.0
FAIR_S = 50.0
MAX_FAILURES = 3
MAX_LOST_LEASES = 12
STEPS = 45
DEPTH = 3
_FAILED = ErrorBody(code="training_failed", message="it failed")


class Process:
    """What can be crashed: it forgets all, and goes on as another. It has a clock of its own."""

    def __init__(self, world: Simulation, name: str) -> None:
        self.world = world
        self.name = name
        self.lives = 1
        self._skew = timedelta(0)
        self.ledger = Ledger(
            world.store.as_store(), Announcer(self._now, "en"), lease_s=LEASE_S, fair_s=FAIR_S
        )

    def _now(self) -> datetime:
        if self.world.draw.random() < 0.05:
            self._skew = timedelta(seconds=self.world.draw.randint(-3600, 3600))
        return self.world.clock.now + self._skew

    def step(self) -> None:
        """Do the next thing."""
        raise NotImplementedError

    def crash(self) -> None:
        """Forget everything that was not stored."""
        self.lives += 1


class Reader(Process):
    """Reads requests from the log and accepts them; commits after, if its turn is not over."""

    def step(self) -> None:
        world = self.world
        if world.draw.random() < 0.1:
            world.epoch += 1  # The partition goes to another reader, at the committed offset.
        epoch, begin = world.epoch, world.committed
        batch = world.log[begin : begin + world.draw.randint(1, 4)]
        self.ledger.accept(batch)
        if epoch == world.epoch and world.committed == begin and world.draw.random() < 0.8:
            world.committed = begin + len(batch)


class Worker(Process):
    """Claims, reports and ends jobs as the training worker does, with a second heart beating."""

    def __init__(self, world: Simulation, name: str) -> None:
        super().__init__(world, name)
        self.lease: Lease | None = None
        self.is_cancelled = False
        self.end: Callable[[Lease], object] | None = None
        self.tries = 0

    def crash(self) -> None:
        super().crash()
        self._forget()

    def _forget(self) -> None:
        self.lease, self.is_cancelled, self.end, self.tries = None, False, None, 0

    def step(self) -> None:
        """Claim, work or end, whatever is next."""
        lease = self.lease
        if lease is None:
            self._claim()
            return
        if self.end is None:
            self.end = self._choice(lease)
        try:
            with self.world.at_work(lease):
                (self.end or self._report)(lease)
        except StoreUnavailable:
            self.tries += 1
            if self.tries >= 4:
                self._forget()
            return
        except LeaseLost:
            self._forget()
            return
        if self.end is not None:
            self._forget()

    def _claim(self) -> None:
        world = self.world
        # While others go first anywhere, nobody can say whose turn it was.
        turn = world.whose_turn() if world.is_calm else None
        self.lease = self.ledger.claim(f"{self.name}-{self.lives}")
        if turn is not None:
            assert turn == set() if self.lease is None else self.lease.job.id in turn
        if self.lease is not None:
            world.witness.begin(self.lease)

    def beat(self) -> None:
        """Renew the lease, if there is one."""
        lease = self.lease
        if lease is None:
            return
        try:
            with self.world.at_work(lease):
                self.ledger.heartbeat(lease)
        except JobCancelled:
            self.is_cancelled = self.lease is lease
        except LeaseLost:
            pass  # Its hand goes on regardless, as a zombie would, and finds out by itself.

    def _choice(self, lease: Lease) -> Callable[[Lease], object] | None:
        """How the job ends now; None where it goes on."""
        if self.is_cancelled:
            return self._finish("cancelled", _FAILED)
        if lease.job.lost_leases > MAX_LOST_LEASES:
            return self._finish("failed", _FAILED)
        if (chance := self.world.draw.random()) < 0.5 and not self.world.is_calm:
            return None
        if chance < 0.8:
            ready = make_ready(lease.job)
            return lambda held: self.ledger.finish(held, "succeeded", ready=ready)
        if chance < 0.88:
            return self._finish("failed", _FAILED)
        wait_s, count = self.world.draw.choice([(0, False), (5, False), (20, True)])
        if count and lease.job.failures + 1 >= MAX_FAILURES:
            return self._finish("failed", _FAILED)
        return lambda held: self.ledger.release(held, wait_s=wait_s, count_attempt=count)

    def _finish(self, status: Status, error: ErrorBody) -> Callable[[Lease], object]:
        return lambda held: self.ledger.finish(held, status, error=error)

    def _report(self, lease: Lease) -> None:
        progress = self.world.draw.randint(5, 80)
        self.ledger.report(lease, ProgressState(stage="training", progress=progress))


class Publisher(Process):
    """Publishes what waits and marks it, and may be stopped after each event."""

    def step(self) -> None:
        outbox = Outbox(self.world.store.as_store(), "test")
        waiting = outbox.waiting(self.world.draw.randint(1, 5))
        for event in (event for job in waiting for event in job.events):
            self.world.witness.publish(event)
            self.world.interrupt(Moment("after", "publish", is_write=True))
        outbox.mark_published(waiting)


class Operator(Process):
    """Cancels jobs now and then, and lets some go first."""

    def step(self) -> None:
        draw = self.world.draw
        if self.world.witness.jobs and draw.random() < 0.5:
            act = draw.choice([self.ledger.cancel, self.ledger.prioritize])
            with suppress(JobAlreadyEnded):
                act(draw.choice(sorted(self.world.witness.jobs)))


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
