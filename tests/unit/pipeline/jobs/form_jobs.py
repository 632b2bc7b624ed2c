"""Jobs that make a version's form again."""

from schemas.documents import Job
from tests.fakes.jobs import make_job

V1, V2 = "afs_elder_LXM:v1", "afs_elder_LXM:v2"


def form_job(version: int, *, makes_current: bool = True, **fields: object) -> Job:
    return make_job(
        id="LXM_9",
        request_source="forms",
        request_id="r9",
        kind="form",
        form_version=version,
        makes_current=makes_current,
        **fields,
    )
