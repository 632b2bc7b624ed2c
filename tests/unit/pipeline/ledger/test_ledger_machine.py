"""The ledger against a plain model of it, step by step, with a fault at any write.

Hypothesis draws the steps: requests new and known, claims, leases good and stale, time, cancels
and a relay. Each step may be cut short at one of its writes, before or after it took effect, by
a crash or by a store that is away. After every step each stored job must be as the model says,
and the witness of tests/ledger/witness.py has seen every write.
"""

from collections.abc import Callable
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.ledger.events import Announcer
from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.new_job import NewJob
from pipeline.ledger.outbox import Outbox, Waiting
from pipeline.ledger.progress import ProgressState
from pipeline.storage.indexes import ensure_indexes
from schemas.errors import JobAlreadyEnded, JobCancelled, LeaseLost, ModelServerError, UnknownJob
from schemas.events import TERMINAL_STATUSES, ErrorBody, Status
from tests.fakes.clock import FalseClock
from tests.fakes.jobs import make_ready
from tests.fakes.mongo import FakeStore
from tests.ledger.model import LedgerModel, Write, stored
from tests.ledger.steps import Fault, do_under, faults, requests
from tests.ledger.witness import Witness, new_request

LEASE_S, FAIR_S = 30.0, 50.0
STATUSES: list[Status] = ["queued", "running", "succeeded", "failed", "cancelled"]
FAILED = ErrorBody(code="training_failed", message="it failed")


class LedgerAgainstAPlainModel(RuleBasedStateMachine):
    """The ledger on the fake store, and the model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FalseClock()
        self.store = FakeStore(self.clock)
        ensure_indexes(self.store.as_store(), dedup_hours=1)
        self.ledger = Ledger(
            self.store.as_store(),
            Announcer(lambda: self.clock.now, "en"),
            lease_s=LEASE_S,
            fair_s=FAIR_S,
        )
        self.outbox = Outbox(self.store.as_store(), "test")
        self.witness = Witness(self.clock)
        self.store.on_change = self.witness.change
        self.model = LedgerModel(LEASE_S, FAIR_S)
        self.log: list[NewJob] = []
        self.committed = 0
        self.leases: list[Lease] = []
        self.in_hand: list[Waiting] = []

    # Steps ----------------------------------------------------------------------------------

    @rule(
        new=st.lists(requests, max_size=3),
        again=st.integers(0, 2),
        doubled=st.booleans(),
        fault=faults,
    )
    def accept(
        self,
        new: list[tuple[str, int, str | None]],
        again: int,
        doubled: bool,
        fault: Fault | None,
    ) -> None:
        for elder, second, job_id in new:
            number = len(self.log) + 1
            self.log.append(new_request(number, elder, second=second, job_id=job_id))
        batch = self.log[max(0, self.committed - again) :] * (1 + doubled)
        outcome = do_under(self.store, lambda: self.ledger.accept(batch), fault)
        in_store = {job["request_id"] for job in self.witness.jobs.values()}
        missing = [r for r in batch if not self.model.is_known(r) and r.request_id not in in_store]
        assert outcome.is_cut or not missing
        news = [r for r in batch if r.request_id in in_store]
        before = len(self.model.jobs)
        for request in news:
            if not self.model.is_known(request):
                assert not missing or request.queue_order < missing[0].queue_order
                self.model.accept(request, self.clock.now)
        if not outcome.is_cut:
            assert outcome.result == len(self.model.jobs) - before
            self.committed = len(self.log)

    @rule(owner=st.sampled_from(["a", "b", "$c"]), fault=faults)
    def claim(self, owner: str, fault: Fault | None) -> None:
        self._claim(owner, fault)

    @rule(times=st.integers(1, 4))
    def serve(self, times: int) -> None:
        """Claim and finish some, as most jobs go: few histories get to a second turn otherwise."""
        for _ in range(times):
            if (lease := self._claim("a", None)) is not None:
                self._end(lease, "failed", None)

    def _claim(self, owner: str, fault: Fault | None) -> Lease | None:
        candidates = self.model.claimable(self.clock.now)
        fences = {job_id: self.model.jobs[job_id].fence for job_id in candidates}
        outcome = do_under(self.store, lambda: self.ledger.claim(owner), fault)
        claimed = {j for j in candidates if self.witness.jobs[j]["fence"] != fences[j]}
        assert len(claimed) == min(outcome.writes, len(candidates), 1)
        for job_id in claimed:
            self.model.claim(job_id, owner, self.clock.now)
        if outcome.is_cut:
            return None
        lease: Lease | None = outcome.result
        assert (lease is None) == (not candidates)
        if lease is not None:
            assert {lease.job.id} == claimed
            self.witness.begin(lease)
            self.leases.append(lease)
        return lease

    @rule(seconds=st.sampled_from([0.001, 1, LEASE_S / 2, LEASE_S, LEASE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), fault=faults)
    def heartbeat(self, data: st.DataObject, fault: Fault | None) -> None:
        lease = self._lease(data)
        job = self.model.jobs[lease.job.id]
        self._write_under(
            lease,
            lambda: self.ledger.heartbeat(lease),
            lambda: self.model.renew(job.id, self.clock.now),
            fault,
            otherwise=JobCancelled if job.is_cancel_wanted else None,
        )

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), progress=st.integers(0, 99), fault=faults)
    def report(self, data: st.DataObject, progress: int, fault: Fault | None) -> None:
        lease = self._lease(data)
        state = ProgressState(stage="training", progress=progress)
        self._write_under(
            lease,
            lambda: self.ledger.report(lease, state),
            lambda: self.model.report(lease.job.id),
            fault,
        )

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(), status=st.sampled_from(["succeeded", "failed", "cancelled"]), fault=faults
    )
    def finish(self, data: st.DataObject, status: Status, fault: Fault | None) -> None:
        self._end(self._lease(data), status, fault)

    def _end(self, lease: Lease, status: Status, fault: Fault | None) -> None:
        ready = make_ready(lease.job) if status == "succeeded" else None
        error = None if ready else FAILED
        self._write_under(
            lease,
            lambda: self.ledger.finish(lease, status, error=error, ready=ready),
            lambda: self.model.end(lease.job.id, status, is_ready=ready is not None),
            fault,
        )

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), wait_s=st.sampled_from([0, 5, 40]), counts=st.booleans(), fault=faults)
    def release(
        self, data: st.DataObject, wait_s: float, counts: bool, fault: Fault | None
    ) -> None:
        lease = self._lease(data)
        until = self.clock.now + timedelta(seconds=wait_s)
        self._write_under(
            lease,
            lambda: self.ledger.release(lease, wait_s=wait_s, count_attempt=counts),
            lambda: self.model.release(lease.job.id, until, count_attempt=counts),
            fault,
        )

    @rule(data=st.data(), request=st.sampled_from([None, "c1", "c2"]), fault=faults)
    def cancel(self, data: st.DataObject, request: str | None, fault: Fault | None) -> None:
        job_id = data.draw(st.sampled_from(["nobody_1", *self.model.jobs]))
        outcome = do_under(self.store, lambda: self.ledger.cancel(job_id, request), fault)
        job = self.model.jobs.get(job_id)
        if job is not None and request in job.cancelled_by:
            assert outcome.error is None and outcome.writes == 0
            return
        if job is None or job.status in TERMINAL_STATUSES:
            assert isinstance(outcome.error, UnknownJob if job is None else JobAlreadyEnded)
            return
        assert outcome.is_cut or outcome.error is None
        if outcome.writes:
            job.cancelled_by += [request] if request else []
        if outcome.writes and job.status == "queued":
            self.model.end(job_id, "cancelled")
        elif outcome.writes:
            self.model.ask_to_cancel(job_id)

    @rule(data=st.data(), fault=faults, claims=st.booleans())
    def prioritize(self, data: st.DataObject, fault: Fault | None, claims: bool) -> None:
        """Often the job is queued, and a claim follows: else few histories show who is next."""
        queued = [job.id for job in self.model.jobs.values() if job.status == "queued"]
        job_id = data.draw(st.sampled_from(["nobody_1", *self.model.jobs, *queued[-3:] * 3]))
        outcome = do_under(self.store, lambda: self.ledger.prioritize(job_id), fault)
        job = self.model.jobs.get(job_id)
        if job is not None and job.status not in TERMINAL_STATUSES:
            assert outcome.is_cut or outcome.result.urgent
            if outcome.writes:
                self.model.prioritize(job_id)
        elif not outcome.is_cut:
            assert isinstance(outcome.error, UnknownJob if job is None else JobAlreadyEnded)
        if claims:
            self._claim("a", None)

    @rule(limit=st.integers(1, 4), stops_after=st.none() | st.integers(0, 3))
    def relay_publishes(self, limit: int, stops_after: int | None) -> None:
        """It may crash before the broker has all; other steps come before it marks them."""
        waiting = self.outbox.waiting(limit)
        flagged = [job for job in self.model.jobs.values() if job.is_flagged]
        assert len(waiting) == min(limit, len(flagged))
        for job in waiting:
            assert [e.id for e in job.events] == self.model.jobs[job.job_id].waiting
        events = [event for job in waiting for event in job.events]
        for event in events[:stops_after]:
            self.witness.publish(event)
        is_crashed = stops_after is not None and stops_after < len(events)
        self.in_hand = [] if is_crashed else waiting

    @precondition(lambda self: self.in_hand)
    @rule(fault=faults)
    def relay_marks(self, fault: Fault | None) -> None:
        writes = self.model.clearing({job.job_id: job.sequence for job in self.in_hand})
        grown = [j for j in self.in_hand if self.model.jobs[j.job_id].sequence != j.sequence]
        for job in grown:
            last = job.events[-1].sequence if job.events else 0
            writes += self.model.taking_out(job.job_id, last or 0)
        outcome = do_under(self.store, lambda: self.outbox.mark_published(self.in_hand), fault)
        assert outcome.is_cut or outcome.writes == len(writes)
        for write in writes[: outcome.writes]:
            write()
        self.in_hand = []

    # Comparing ------------------------------------------------------------------------------

    @invariant()
    def every_job_is_as_the_model_says(self) -> None:
        found = {job_id: stored(job) for job_id, job in self.witness.jobs.items()}
        assert found == {job_id: job.seen() for job_id, job in self.model.jobs.items()}

    @invariant()
    def jobs_are_counted_as_in_the_model(self) -> None:
        statuses = [job.status for job in self.model.jobs.values()]
        assert [self.ledger.count(s) for s in STATUSES] == [statuses.count(s) for s in STATUSES]

    def teardown(self) -> None:
        """Whatever happened, a relay that works tells all that is to be told."""
        while waiting := self.outbox.waiting(3):
            for event in (event for job in waiting for event in job.events):
                self.witness.publish(event)
            self.outbox.mark_published(waiting)
        for job_id, job in self.witness.jobs.items():
            assert not job["has_pending"], f"{job_id} still waits"

    def _lease(self, data: st.DataObject) -> Lease:
        """One of the last leases, the newest first: good or stale."""
        return data.draw(st.sampled_from(self.leases[:-5:-1]))

    def _write_under(
        self,
        lease: Lease,
        work: Callable[[], object],
        write: Write,
        fault: Fault | None,
        *,
        otherwise: type[ModelServerError] | None = None,
    ) -> None:
        """Do what only a holder may; `otherwise` is what a good lease is told all the same."""
        is_held = self.model.is_held(lease.job.id, lease.fence)
        self.witness.lease_at_work = lambda: lease
        outcome = do_under(self.store, work, fault)
        self.witness.lease_at_work = lambda: None
        if is_held and outcome.writes:
            write()
        if not outcome.is_cut:
            expected = otherwise if is_held else LeaseLost
            assert type(outcome.error) is (expected or type(None))


TestLedgerAgainstAPlainModel = LedgerAgainstAPlainModel.TestCase
TestLedgerAgainstAPlainModel.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
