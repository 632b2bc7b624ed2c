"""The checker: decides the invariant from Kafka, MongoDB, Ollama and the disk alone.

It knows what the driver sent (its operations) and nothing of how the service works. Everything
that the broker accepted must be dealt with once. A send whose fate the driver does not know may
have been accepted or not; the records decide. Each module of `checks` is one part of the invariant.
"""

from schemas.base import Frozen
from tests.chaos.checks.current import left, unserved
from tests.chaos.checks.doubled import doubled
from tests.chaos.checks.lost import lost
from tests.chaos.checks.mixed import mixed
from tests.chaos.checks.order import disordered
from tests.chaos.checks.told import untrue
from tests.chaos.evidence import Case


class Verdict(Frozen):
    """What is wrong, in sentences; a good run has none."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """All sentences."""
        return (*self.lost, *self.doubled, *self.mixed, *self.other)


def is_settled(case: Case) -> bool:
    """Say whether nothing is under way or missing any more."""
    case.evidence.read()
    if any(True for _ in lost(case)) or any(job["has_pending"] for job in case.jobs()):
        return False
    if any(True for _ in left(case)):
        return False
    return not case.evidence.uncommitted()


def check(case: Case, *, settled: bool) -> Verdict:
    """Decide the invariant; `settled` says whether the run settled in time."""
    case.evidence.read()
    unsettled: tuple[str, ...] = ()
    if not settled:
        uncommitted = case.evidence.uncommitted()
        unsettled = (f"not settled in time; uncommitted: {uncommitted}", *left(case))
    return Verdict(
        lost=tuple(lost(case)),
        doubled=tuple(doubled(case)),
        mixed=tuple(mixed(case)),
        other=(*unsettled, *untrue(case), *unserved(case), *disordered(case)),
    )
