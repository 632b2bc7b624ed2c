"""Ids that reach a path, a query or a model name, and the patterns that make them safe."""

import re
from typing import Annotated
from zlib import crc32

from pydantic import Field, StringConstraints

ELDER_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
# An elder's id, a unix time and at most a short suffix; the same alphabet, so it is safe in a path.
JOB_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
# The id that a request may choose: shorter, so that a suffix still fits.
REQUESTED_JOB_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
MODEL_PREFIX = "afs_elder_"
_CANDIDATE = "-candidate"
_HANDOVER = "-handover"

ElderId = Annotated[str, StringConstraints(pattern=ELDER_ID_PATTERN)]
JobId = Annotated[str, StringConstraints(pattern=JOB_ID_PATTERN)]
RequestedJobId = Annotated[str, StringConstraints(pattern=REQUESTED_JOB_ID_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
# Elder names are shown to a model and to people, never used as an identifier.
ElderName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Fence = Annotated[int, Field(ge=1)]
Version = Annotated[int, Field(ge=1)]

_ELDER_ID = re.compile(ELDER_ID_PATTERN)
_CANDIDATE_TAG = re.compile(rf":v(\d+){_CANDIDATE}(\d+)(?:-[0-9a-f]{{8}})?$")
_HANDOVER_TAG = re.compile(rf"(.*:v\d+){_HANDOVER}[0-9a-f]+")


def is_elder_id(text: str) -> bool:
    """Say whether `text` may be used as an elder's id."""
    # `$` also matches before a trailing newline, so the whole string is matched.
    return _ELDER_ID.fullmatch(text) is not None


def model_name(elder_id: str) -> str:
    """Build the name of an elder's model, without a tag: `afs_elder_X`."""
    return f"{MODEL_PREFIX}{elder_id}"


def model_tag(elder_id: str, version: int) -> str:
    """Build the tag of one version: `afs_elder_X:v3`."""
    return f"{model_name(elder_id)}:v{version}"


def current_tag(elder_id: str) -> str:
    """Build the tag of the version that answers: `afs_elder_X:latest`."""
    return f"{model_name(elder_id)}:latest"


def candidate_tag(elder_id: str, version: int, fence: int, form_job: str | None = None) -> str:
    """Build the tag of a version under evaluation.

    The fence tells it from the candidate of a worker that lost its lease. A version has one job
    that trains it, but may have several that make its form: `form_job` tells those apart.
    """
    token = "" if form_job is None else f"-{crc32(form_job.encode()):08x}"
    return f"{model_name(elder_id)}:v{version}{_CANDIDATE}{fence}{token}"


def read_candidate(tag: str) -> tuple[int, int] | None:
    """Return the version and the fence of a candidate's tag; None for any other tag."""
    found = _CANDIDATE_TAG.search(tag)
    return (int(found[1]), int(found[2])) if found else None


def handover_tag(tag: str, token: str) -> str:
    """Build the tag of a version on its way to `latest`; each process has its own hex `token`."""
    return f"{tag}{_HANDOVER}{token}"


def handed_over(tag: str) -> str | None:
    """Return the version's tag from a handover's tag; None for any other tag."""
    found = _HANDOVER_TAG.fullmatch(tag)
    return found[1] if found else None


def is_passing(tag: str) -> bool:
    """Say whether a tag is temporary: a candidate's or a handover's."""
    return read_candidate(tag) is not None or handed_over(tag) is not None


def job_id_for(elder_id: str, unix_seconds: int) -> str:
    """Build `<elder_id>_<unix seconds>`."""
    return f"{elder_id}_{unix_seconds}"


def numbered(job_id: str, number: int) -> str:
    """Append `_2`, `_3` … to the id of a job that is not the first with this id."""
    return job_id if number == 1 else f"{job_id}_{number}"
