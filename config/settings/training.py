"""The training worker, the evaluation of a new version, and the retention of old ones."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from config.section import Count, Seconds, Section


class WorkerSettings(Section):
    """The training worker.

    A worker holds a lease on its job and renews it with each heartbeat; when a lease expires,
    another worker takes the job over. `max_attempts` bounds the failures that workers report. A
    worker that is killed reports nothing: `max_lost_leases` only keeps an input that kills every
    worker from doing so for ever.
    """

    lease_s: Seconds = 30.0
    """How long a worker may be silent before another takes its job over."""
    heartbeat_s: Seconds = 5.0
    """How often a worker renews its lease; at most half of `lease_s`."""
    poll_s: Seconds = 1.0
    """How often an idle worker looks for a job."""
    max_attempts: Count = 5
    """How often a job may fail before it ends as failed."""
    max_lost_leases: Count = 100
    """How many workers may be lost over a job before it ends as failed."""
    retry_base_s: Seconds = 5.0
    """The wait before the second attempt; it doubles with each further one."""
    progress_interval_s: Seconds = 1.0
    """The shortest time between two `train-progress` events of the same stage."""
    fair_s: Seconds = 3600.0
    """How long an elder who was served waits behind those who were not
    (docs/decisions/0012-fairness.md)."""
    silence_s: Seconds = 3600.0
    """How long a training process may report nothing before it is taken to hang and is stopped."""

    @field_validator("heartbeat_s")
    @classmethod
    def _several_beats_a_lease(cls, beat: float, info: Any) -> float:
        lease = info.data.get("lease_s", 30.0)
        if beat * 2 > lease:
            raise ValueError(f"at most half of lease_s ({lease})")
        return beat


class EvaluationSettings(Section):
    """What a new version must know before it may answer, and when it is asked.

    Its evaluation may take another persona's place in the host's memory, so it waits for a quiet
    moment.
    """

    questions: Annotated[int, Field(ge=0, le=1000)] = 8
    """How many of the taught questions a version is asked; 0: none, every version is released."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of right answers that a version needs."""
    quiet_s: Annotated[float, Field(ge=0)] = 10.0
    """The evaluation begins once no persona has been asked for this long."""
    quiet_wait_s: Annotated[float, Field(ge=0)] = 120.0
    """The evaluation begins after this long at the latest."""


class RetentionSettings(Section):
    """What is kept of an elder's earlier work (docs/decisions/0011-retention.md)."""

    after_each_job: bool = True
    """Remove after each job what its elder no longer needs."""
    versions: Count = 10
    """How many of the newest released versions are kept and, separately, how many before the
    current one."""
    grace_h: Annotated[float, Field(ge=1, le=24 * 366)] = 24.0
    """Files that belong to no finished job or registered version are kept for this many hours."""
