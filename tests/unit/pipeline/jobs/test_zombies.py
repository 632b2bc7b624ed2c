"""Zombies, workers that resume after their lease has expired, change nothing of a successor's."""

from collections.abc import Callable

import pytest

from pipeline.hosting.port import ServedModel
from pipeline.jobs.job_progress import Unwatched
from pipeline.ledger.progress import ProgressState
from schemas.errors import (
    ArtefactCorrupt,
    JobCancelled,
    LeaseLost,
    ModelNotReady,
    OllamaUnavailable,
    TrainingFailed,
)
from tests.fakes.jobs import make_job
from tests.unit.pipeline.jobs.workshop import LATEST, NotingWatch, Workshop, adapter_of, second_job


def test_attempt_that_is_repeated_keeps_its_version_and_reads_earlier_checkpoints(
    shop: Workshop,
) -> None:
    shop.runner.failures = [TrainingFailed(), TrainingFailed()]
    for fence in (1, 2):
        with pytest.raises(TrainingFailed):
            shop.run(make_job(fence=fence))
    assert shop.run(make_job(fence=3)).version == 1
    folder = shop.folder / "adapters" / "LXM" / "LXM_1734512345"
    last = shop.runner.specs[-1]
    assert last.work_dir == folder / "3"
    assert last.resume_from == (folder / "2", folder / "1")


def test_worker_with_an_older_fence_releases_nothing(shop: Workshop) -> None:
    with pytest.raises(JobCancelled):
        shop.run(make_job(fence=2), NotingWatch("training"))
    with pytest.raises(LeaseLost):
        shop.run(make_job(fence=1))
    assert shop.registry.get("LXM").current is None
    assert LATEST not in shop.host.tags()


class Zombie(Unwatched):
    """Is suspended right after the check at a stage's beginning, and resumes after `others` ran.

    The next check raises LeaseLost, as JobWatch does; what it does before that must be harmless.
    """

    def __init__(self, stage: str, others: Callable[[], object]) -> None:
        self._stage = stage
        self._others = others
        self._slept = False

    def report(self, state: ProgressState) -> None:
        if state.stage == self._stage and not self._slept:
            self._slept = True
            self._others()

    def check(self) -> None:
        if self._slept:
            raise LeaseLost


@pytest.mark.parametrize("stage", ["evaluating", "publishing"])
def test_zombie_changes_nothing_that_its_successor_made(shop: Workshop, stage: str) -> None:
    zombie = Zombie(stage, lambda: shop.run(make_job(fence=2)))
    with pytest.raises((ArtefactCorrupt, ModelNotReady, LeaseLost)):
        shop.run(make_job(fence=1), zombie)
    assert adapter_of(shop, "afs_elder_LXM:v1") == "LXM_1734512345/2"
    assert adapter_of(shop, LATEST) == "LXM_1734512345/2"
    assert shop.registry.get("LXM").versions[0].fence == 2


def test_zombie_does_not_bring_an_older_version_back(shop: Workshop) -> None:
    """It is suspended before its last copy, while its successor and then another job end."""

    def others() -> None:
        shop.run(make_job(fence=2))
        shop.run(second_job(force_retrain=True))
        shop.copies_to_latest.clear()

    shop.before_next_copy_to_latest(others)
    shop.run(make_job(fence=1))
    # Not even for a moment: it finds nothing to copy, and then reads the registry again.
    assert shop.copies_to_latest == ["LXM_2/1"]
    assert adapter_of(shop, LATEST) == "LXM_2/1"
    assert shop.registry.get("LXM").current == 2


def test_zombie_that_wakes_before_its_first_step_takes_nothing_from_its_successor(
    shop: Workshop,
) -> None:
    """Its successor has a candidate under evaluation, which it must not remove."""

    class Successor(Unwatched):
        def report(self, state: ProgressState) -> None:
            if state.stage == "publishing":
                with pytest.raises(LeaseLost):
                    shop.run(make_job(fence=1))

    shop.run(make_job(fence=2), Successor())
    assert adapter_of(shop, LATEST) == "LXM_1734512345/2"


def test_job_given_up_has_no_version_that_a_zombie_could_release(shop: Workshop) -> None:
    with pytest.raises((ModelNotReady, LeaseLost)):
        shop.run(
            make_job(fence=1),
            Zombie("publishing", lambda: shop.trainer.fence_off(make_job(fence=2))),
        )
    assert shop.registry.get("LXM").current is None
    assert LATEST not in shop.host.tags()


def test_attempt_keeps_no_adapter_of_an_earlier_one(shop: Workshop) -> None:
    """A job that waits for Ollama after each training must not fill the disk."""
    create = shop.host.create

    def fail(tag: str, definition: ServedModel) -> None:
        raise OllamaUnavailable

    shop.host.create = fail  # type: ignore[method-assign]
    with pytest.raises(OllamaUnavailable):
        shop.run(make_job(fence=1))
    work = shop.folder / "adapters" / "LXM" / make_job().id
    assert [p.parent.name for p in work.rglob("adapter")] == ["1"]
    shop.host.create = create  # type: ignore[method-assign]
    shop.run(make_job(fence=2))
    assert [p.parent.name for p in work.rglob("adapter")] == ["2"]
