"""A released version is current: crashes, cancels, rollbacks and deletes around a release."""

import pytest

from pipeline.jobs.job_progress import Unwatched
from pipeline.ledger.progress import ProgressState
from schemas.documents import ModelVersion
from schemas.errors import (
    JobCancelled,
)
from tests.fakes.jobs import make_job
from tests.unit.pipeline.jobs.workshop import (
    LATEST,
    Cancelled,
    NotingWatch,
    Workshop,
    adapter_of,
    second_job,
)


@pytest.mark.parametrize("forced", [False, True])
def test_version_whose_worker_died_before_it_was_latest_becomes_latest(
    shop: Workshop, forced: bool
) -> None:
    """The job's next attempt finds it released, and trains nothing again."""
    shop.dies_after_release(make_job(force_retrain=forced))
    assert shop.registry.get("LXM").current == 1
    assert LATEST not in shop.host.tags()
    ready = shop.run(make_job(fence=2, force_retrain=forced))
    assert (ready.version, ready.reused, len(shop.runner.specs)) == (1, False, 1)
    assert LATEST in shop.host.tags()


def test_released_version_has_won_whoever_cancels_now(shop: Workshop) -> None:
    """Otherwise the job would be cancelled although its version is current."""

    class CancelledLate(Unwatched):
        def check(self) -> None:
            model = shop.registry.find("LXM")
            if model is not None and model.current == 2:
                raise JobCancelled

    shop.run()
    assert shop.run(second_job(force_retrain=True), CancelledLate()).version == 2
    assert adapter_of(shop, LATEST) == "LXM_2/1"


def test_job_that_is_cancelled_between_its_release_and_its_next_attempt_succeeds(
    shop: Workshop,
) -> None:
    shop.dies_after_release(make_job())
    ready = shop.run(make_job(fence=2, cancel_requested=True), Cancelled())
    assert (ready.version, LATEST in shop.host.tags()) == (1, True)


@pytest.mark.parametrize("reused", [False, True])
def test_rollback_between_a_jobs_last_steps_wins(shop: Workshop, reused: bool) -> None:
    """Registry and `latest` agree afterwards, whichever came last."""
    shop.run()
    shop.run(second_job(force_retrain=True))
    shop.before_next_copy_to_latest(lambda: shop.manager.rollback("LXM", 1))
    ready = shop.run(make_job(id="LXM_3", request_id="r3", force_retrain=not reused))
    assert (ready.reused, ready.version) == (reused, 2 if reused else 3)
    assert shop.registry.get("LXM").current == 1
    assert adapter_of(shop, LATEST) == "LXM_1734512345/1"


def test_job_that_ends_during_a_rollback_wins(shop: Workshop) -> None:
    shop.run()
    shop.run(second_job(force_retrain=True))
    third = make_job(id="LXM_3", request_id="r3", force_retrain=True)
    shop.before_next_copy_to_latest(lambda: shop.run(third))
    assert shop.manager.rollback("LXM", 1).model.current == 3
    assert adapter_of(shop, LATEST) == "LXM_3/1"


def test_version_that_ollama_lost_before_the_job_ended_is_made_again(shop: Workshop) -> None:
    shop.dies_after_release(make_job(force_retrain=True))
    shop.host.delete("afs_elder_LXM:v1")
    shop.run(make_job(force_retrain=True, fence=2))
    assert adapter_of(shop, LATEST) == "LXM_1734512345/2"


@pytest.mark.parametrize("stage", ["preparing", "training", "evaluating"])
def test_cancelled_job_leaves_no_version_serving(shop: Workshop, stage: str) -> None:
    with pytest.raises(JobCancelled):
        shop.run(watch=NotingWatch(stage))
    model = shop.registry.find("LXM")
    assert model is None or model.current is None
    assert not [tag for tag in shop.host.tags() if tag.startswith("afs_elder_")]


@pytest.mark.parametrize("stage", ["training", "evaluating", "publishing"])
def test_model_deleted_during_a_training_is_gone_until_the_training_ends(
    shop: Workshop, stage: str
) -> None:
    """The running job keeps its candidate and its version; the current version is removed."""
    shop.run()
    gone: list[str] = []

    class Deleting(Unwatched):
        def report(self, state: ProgressState) -> None:
            if state.stage == stage and not gone:
                gone.extend(shop.manager.delete_model("LXM"))
                assert LATEST not in shop.host.tags()
                assert shop.registry.get("LXM").current is None

    ready = shop.run(second_job(force_retrain=True), Deleting())
    assert sorted(gone) == [LATEST, "afs_elder_LXM:v1"]
    assert (ready.version, shop.registry.get("LXM").current) == (2, 2)
    assert [v.version for v in shop.registry.get("LXM").versions] == [2]
    assert sorted(t for t in shop.host.tags() if "elder" in t) == [LATEST, "afs_elder_LXM:v2"]


def test_model_deleted_between_the_version_tag_and_the_release_keeps_that_tag(
    shop: Workshop,
) -> None:
    shop.run()
    release = shop.registry.release

    def delete_first(elder_id: str, version: ModelVersion) -> None:
        shop.manager.delete_model(elder_id)
        release(elder_id, version)

    shop.registry.release = delete_first  # type: ignore[method-assign]
    shop.run(second_job(force_retrain=True))
    assert sorted(t for t in shop.host.tags() if "elder" in t) == [LATEST, "afs_elder_LXM:v2"]
