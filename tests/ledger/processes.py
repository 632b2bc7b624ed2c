"""The processes of a history: readers, workers, relays and an operator, each with its own clock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.ledger.events import Announcer
from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.progress import ProgressState
from schemas.errors import JobAlreadyEnded, JobCancelled, LeaseLost, StoreUnavailable
from schemas.events import ErrorBody, Status
from tests.fakes.jobs import make_ready
from tests.fakes.mongo import Moment

if TYPE_CHECKING:
    from tests.ledger.simulation import Simulation

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
