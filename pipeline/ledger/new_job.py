"""Jobs before they are in the ledger: from an accepted request, or from a form that is needed."""

from datetime import datetime
from typing import Any

from schemas.base import Frozen
from schemas.documents import ElderModel, JobKind
from schemas.identifiers import Version, job_id_for

# The request source of jobs that no event asked for.
FORMS = "forms"
# Before every record's offset: a form is made before the elder's next training.
_BEFORE_ALL = -1


class NewJob(Frozen):
    """A request that was accepted, ready for the ledger."""

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
    """The record's offset: it orders the jobs of one elder, who has one partition."""
    kind: JobKind = "train"
    form_version: Version | None = None
    makes_current: bool = False
    replaces: Version | None = None

    @property
    def name(self) -> str:
        """The name that its job gets unless it is taken."""
        return self.job_id or job_id_for(self.elder_id, int(self.requested_at.timestamp()))


def form_job(
    model: ElderModel, number: int, makes_current: bool, request: str, now: datetime
) -> NewJob:
    """Return the job that makes the form of version `number`; `request` names who asks."""
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
