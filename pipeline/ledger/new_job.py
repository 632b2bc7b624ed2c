"""A job before it is stored: from an accepted `train-requested` event, or to make a form."""

from datetime import datetime
from typing import Any

from schemas.base import Frozen
from schemas.documents import ElderModel, JobKind
from schemas.identifiers import Version, job_id_for

# The request source of jobs that no event asked for.
FORMS = "forms"
# Less than any record's offset: a form is made before the elder's next training.
_BEFORE_ALL = -1


class NewJob(Frozen):
    """A request for a job, checked and ready to be stored."""

    request_source: str
    request_id: str
    requested_at: datetime
    elder_id: str
    elder_name: str
    force_retrain: bool
    job_id: str | None
    base_model: str | None
    overrides: dict[str, Any]
    traceparent: str | None
    queue_order: int
    """The record's offset. It orders one elder's jobs, which all come from one partition."""
    kind: JobKind = "train"
    form_version: Version | None = None
    makes_current: bool = False
    replaces: Version | None = None

    @property
    def name(self) -> str:
        """The job's id, unless another job has it; then a number is appended."""
        return self.job_id or job_id_for(self.elder_id, int(self.requested_at.timestamp()))


def form_job(
    model: ElderModel, number: int, makes_current: bool, request: str, now: datetime
) -> NewJob:
    """Build the job that makes the form of version `number`; `request` is its unique id."""
    return NewJob(
        request_source=FORMS,
        request_id=request,
        requested_at=now,
        elder_id=model.id,
        elder_name=model.elder_name,
        force_retrain=False,
        job_id=None,
        base_model=None,
        overrides={},
        traceparent=None,
        queue_order=_BEFORE_ALL,
        kind="form",
        form_version=number,
        makes_current=makes_current,
        replaces=model.current,
    )
