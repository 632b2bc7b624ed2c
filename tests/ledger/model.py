"""A plain model of the ledger: jobs in a list, each with a few fields, one step at a time.

It knows nothing of documents, filters or faults. test_ledger_machine.py compares the real ledger
with it after every step. Where a fault cuts a step short, the model repeats as many writes as took
effect in the store.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pipeline.ledger.new_job import NewJob
from schemas.events import Status
from tests.fakes.mongo_language import Document
from tests.ledger.witness import new_request, waiting_events

Write = Callable[[], None]


@dataclass
class ModelJob:
    """One job."""

    id: str
    request: NewJob
    queued_at: datetime
    status: Status = "queued"
    attempt: int = 0
    is_given_back: bool = False
    failures: int = 0
    fence: int = 0
    sequence: int = 1
    owner: str | None = None
    lease_until: datetime | None = None
    not_before: datetime | None = None
    served_at: datetime | None = None
    is_urgent: bool = False
    is_cancel_wanted: bool = False
    cancelled_by: list[str] = field(default_factory=list)
    outbox: list[tuple[int, str]] = field(default_factory=list)
    latest: tuple[int, str] | None = None
    is_flagged: bool = True

    @property
    def waiting(self) -> list[str]:
        """The ids of the unpublished events, in order."""
        latest = [] if self.latest is None else [self.latest]
        return [event_id for _, event_id in sorted([*self.outbox, *latest])]

    def seen(self) -> tuple[object, ...]:
        """The fields that are compared with the stored document."""
        return (
            self.status,
            self.attempt,
            self.is_given_back,
            self.failures,
            self.fence,
            self.sequence,
            self.owner,
            self.lease_until,
            self.not_before,
            self.served_at,
            self.is_urgent,
            self.is_cancel_wanted,
            self.cancelled_by,
            self.waiting,
            self.is_flagged,
        )

    def _next_event(self) -> tuple[int, str]:
        self.sequence += 1
        self.is_flagged = True
        return self.sequence, f"{self.id}/progress/{self.sequence}"


def stored(document: Document) -> tuple[object, ...]:
    """Return the fields of a stored job that `ModelJob.seen` returns of the model's."""
    events = sorted(waiting_events(document), key=lambda event: event["sequence"])
    plain = ("status", "attempt", "given_back", "failures", "fence", "sequence", "owner")
    return (
        *(document[name] for name in (*plain, "lease_until", "not_before")),
        document["served_at"],
        document["urgent"],
        document["cancel_requested"],
        document["cancel_requests"],
        [event["event_id"] for event in events],
        document["has_pending"],
    )


def model_job(document: Document) -> ModelJob:
    """Return a stored job as a ModelJob, with the fields that decide a claim."""
    request = new_request(document["queue_order"], document["elder_id"])
    return ModelJob(
        document["_id"],
        request,
        document["queued_at"],
        document["status"],
        lease_until=document["lease_until"],
        not_before=document["not_before"],
        served_at=document["served_at"],
        is_urgent=document["urgent"],
    )


class LedgerModel:
    """All jobs. A single write to the store is one `Write` here, which a fault may skip."""

    def __init__(self, lease_s: float, fair_s: float) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self._fair = timedelta(seconds=fair_s)
        self._lease = timedelta(seconds=lease_s)

    def is_known(self, request: NewJob) -> bool:
        """Say whether a request has its job."""
        return any(job.request.request_id == request.request_id for job in self.jobs.values())

    def accept(self, request: NewJob, now: datetime) -> None:
        """Queue a request under the first free name."""
        wanted = request.job_id or f"{request.elder_id}_{int(request.requested_at.timestamp())}"
        name, number = wanted, 2
        while name in self.jobs:
            name, number = f"{wanted}_{number}", number + 1
        self.jobs[name] = ModelJob(name, request, now, outbox=[(1, f"{name}/progress/1")])

    def claimable(self, now: datetime) -> set[str]:
        """Return the jobs a claim may take: all with an expired lease, or else the next one."""
        running = [job for job in self.jobs.values() if job.status == "running"]
        lost = {job.id for job in running if job.lease_until and job.lease_until < now}
        if lost:
            return lost
        queued = [job for job in self.jobs.values() if job.status == "queued"]
        backing_off = [job for job in queued if job.not_before and job.not_before > now]
        away = {job.request.elder_id for job in (*running, *backing_off)}
        free = [job for job in queued if job.request.elder_id not in away]
        if any(job.is_urgent for job in free):
            prioritized = {job.request.elder_id for job in free if job.is_urgent}
            free = [job for job in free if job.request.elder_id in prioritized]
        return {job.id for job in sorted(free, key=lambda job: self._place(job, now))[:1]}

    def _place(self, job: ModelJob, now: datetime) -> tuple[object, ...]:
        """Return a sort key: a job's elder decides first, then its place among the elder's jobs.

        Elders who were not served lately come first, by their oldest job, or their oldest urgent
        one. The others follow, the one served longest ago first.
        """
        elder = job.request.elder_id
        line = [
            other
            for other in self.jobs.values()
            if other.request.elder_id == elder and other.status == "queued"
        ]
        urgent = [other for other in line if other.is_urgent]
        oldest = min((o.queued_at, o.request.queue_order) for o in (urgent or line))
        served = [
            other.served_at
            for other in self.jobs.values()
            if other.request.elder_id == elder and other.served_at is not None
        ]
        is_served = bool(served) and max(served) > now - self._fair
        place = (max(served), elder) if is_served else oldest
        return (is_served, *place, job.request.queue_order)

    def is_held(self, job_id: str, fence: int) -> bool:
        """Say whether a lease may write."""
        job = self.jobs[job_id]
        return job.status == "running" and job.fence == fence

    def claim(self, job_id: str, owner: str, now: datetime) -> None:
        """Claim a job for a worker."""
        job = self.jobs[job_id]
        job.status, job.owner, job.not_before = "running", owner, None
        job.fence += 1
        job.attempt += not job.is_given_back
        job.is_given_back = False
        job.lease_until = now + self._lease
        job.served_at = now

    def renew(self, job_id: str, now: datetime) -> None:
        """Renew a lease."""
        self.jobs[job_id].lease_until = now + self._lease
        self.jobs[job_id].served_at = now

    def report(self, job_id: str) -> None:
        """Replace the unpublished progress of a job."""
        job = self.jobs[job_id]
        job.latest = job._next_event()

    def end(self, job_id: str, status: Status, *, is_ready: bool = False) -> None:
        """End a job; unpublished progress is dropped."""
        job = self.jobs[job_id]
        job.status, job.owner, job.lease_until, job.not_before = status, None, None, None
        job.latest = None
        job.outbox.append(job._next_event())
        if is_ready:
            job.sequence += 1
            job.outbox.append((job.sequence, f"{job.id}/model-ready"))

    def release(self, job_id: str, until: datetime, *, count_attempt: bool) -> None:
        """Put a job back to its place in the queue."""
        job = self.jobs[job_id]
        job.status, job.owner, job.lease_until, job.not_before = "queued", None, None, until
        job.served_at = None
        job.is_given_back = not count_attempt
        job.failures += count_attempt

    def ask_to_cancel(self, job_id: str) -> None:
        """Request cancellation from the worker."""
        self.jobs[job_id].is_cancel_wanted = True

    def prioritize(self, job_id: str) -> None:
        """Let a job begin before all others."""
        self.jobs[job_id].is_urgent = True

    def clearing(self, jobs: dict[str, int]) -> list[Write]:
        """Return the writes that empty the outboxes of jobs whose sequence is unchanged."""

        def cleared(job: ModelJob) -> Write:
            def write() -> None:
                job.outbox, job.latest, job.is_flagged = [], None, False

            return write

        # Like the store: jobs of one sequence together, in the order in which they were found.
        found = [j for s in dict.fromkeys(jobs.values()) for j in self.jobs if jobs.get(j) == s]
        return [cleared(self.jobs[j]) for j in found if self.jobs[j].sequence == jobs[j]]

    def taking_out(self, job_id: str, last: int) -> list[Write]:
        """Return the writes that remove published events."""
        job = self.jobs[job_id]

        def from_outbox() -> None:
            job.outbox = [event for event in job.outbox if event[0] > last]

        def latest() -> None:
            if job.latest is not None and job.latest[0] <= last:
                job.latest = None

        def flag() -> None:
            job.is_flagged = bool(job.outbox or job.latest)

        return [from_outbox, latest, flag]
