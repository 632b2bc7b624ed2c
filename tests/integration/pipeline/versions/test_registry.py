"""The registry over a real store: versions are opened, released, selected and forgotten."""

import pytest

from pipeline.ledger.events import Announcer
from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.storage.mongo import Store
from pipeline.versions.registry import DatasetRegistry, ModelRegistry
from schemas.documents import ModelVersion
from schemas.errors import ElderIdClash, LeaseLost, ModelNotReady, UnknownVersion
from tests.integration.pipeline.versions.versions import AT, MADE_OF, job, released
from tests.ledger.witness import new_request


def test_versions_count_up_and_the_last_released_answers(registry: ModelRegistry) -> None:
    assert [released(registry, n).version for n in (1, 2, 3)] == [1, 2, 3]
    model = registry.get("LXM")
    assert (model.current, [v.ready for v in model.versions]) == (3, [True] * 3)
    assert model.serving is not None and model.serving.tag == "afs_elder_LXM:v3"


def test_version_that_was_opened_does_not_answer(registry: ModelRegistry) -> None:
    released(registry, 1)
    registry.open_version(job(2), MADE_OF, AT)
    model = registry.get("LXM")
    assert model.current == 1
    assert [v.ready for v in model.versions] == [True, False]


def test_job_that_comes_again_keeps_its_version(registry: ModelRegistry) -> None:
    first = registry.open_version(job(1), MADE_OF, AT)
    again = registry.open_version(job(1, fence=2), MADE_OF, AT)
    assert (first.version, again.version, again.fence) == (1, 1, 2)
    assert len(registry.get("LXM").versions) == 1


def test_older_fence_releases_nothing(registry: ModelRegistry) -> None:
    zombie = registry.open_version(job(1), MADE_OF, AT)
    holder = registry.open_version(job(1, fence=2), MADE_OF, AT)
    with pytest.raises(LeaseLost):
        registry.release("LXM", zombie)
    assert registry.get("LXM").current is None
    registry.release("LXM", holder)
    assert registry.get("LXM").current == 1


def test_older_fence_does_not_get_the_version_back(registry: ModelRegistry) -> None:
    registry.open_version(job(1, fence=2), MADE_OF, AT)
    with pytest.raises(LeaseLost):
        registry.open_version(job(1, fence=1), MADE_OF, AT)


def test_released_version_that_ollama_lost_is_made_anew_of_what_there_is_now(
    registry: ModelRegistry,
) -> None:
    """The worker died between release and the job's end, and then the host lost the model."""
    first = released(registry, 1)
    anew = registry.open_version(job(1, fence=2), MADE_OF | {"dataset_sha256": "f" * 64}, AT)
    assert (anew.version, anew.tag, anew.ready) == (first.version, first.tag, False)
    assert registry.get("LXM").version(1) == anew
    with pytest.raises(LeaseLost):
        registry.release("LXM", first)
    registry.release("LXM", anew)
    assert registry.get("LXM").current == 1


def test_release_that_comes_late_does_not_undo_a_rollback(registry: ModelRegistry) -> None:
    """Its sender gave the job back; the next worker found it released; then came the rollback."""
    released(registry, 1)
    late = released(registry, 2)
    assert registry.fence_off(job(2, fence=2)) is not None
    registry.select("LXM", 1)
    with pytest.raises(LeaseLost):
        registry.release("LXM", late)
    assert registry.get("LXM").current == 1


def test_earlier_version_can_answer_again(registry: ModelRegistry) -> None:
    released(registry, 1)
    released(registry, 2)
    registry.select("LXM", 1)
    assert registry.get("LXM").current == 1


def test_version_that_was_never_released_or_never_was_cannot_be_selected(
    registry: ModelRegistry,
) -> None:
    released(registry, 1)
    registry.open_version(job(2), MADE_OF, AT)
    for number in (2, 9):
        with pytest.raises(UnknownVersion):
            registry.select("LXM", number)
    assert registry.get("LXM").current == 1


def test_retired_numbers_are_not_given_again(registry: ModelRegistry) -> None:
    released(registry, 1)
    registry.retire("LXM")
    assert registry.models() == []
    assert released(registry, 2).version == 2


def test_ids_that_differ_in_case_alone_are_refused(registry: ModelRegistry) -> None:
    """Ollama takes both names for one model."""
    registry.open_version(job(1, elder="LI01"), MADE_OF, AT)
    with pytest.raises(ElderIdClash):
        registry.open_version(job(2, elder="li01"), MADE_OF, AT)
    assert registry.find("li01") is None


def test_unknown_elder_has_no_model(registry: ModelRegistry) -> None:
    assert registry.find("NOBODY") is None
    with pytest.raises(ModelNotReady):
        registry.get("NOBODY")


def test_only_elders_with_a_serving_version_are_listed(registry: ModelRegistry) -> None:
    released(registry, 1)
    registry.open_version(job(2, elder="ZJG"), MADE_OF, AT)
    assert [m.id for m in registry.models()] == ["LXM"]


def test_dataset_of_an_elder_is_remembered(store: Store) -> None:
    datasets = DatasetRegistry(store)
    assert datasets.find("LXM") is None
    datasets.record("LXM", {"examples": 1, "elder_name": "李秀梅"})
    datasets.record("LXM", {"examples": 2})
    assert datasets.find("LXM") == {"_id": "LXM", "examples": 2, "elder_name": "李秀梅"}


def test_forgotten_versions_are_gone_and_the_current_one_never_is(registry: ModelRegistry) -> None:
    for number in (1, 2, 3):
        released(registry, number)
    assert registry.forget("LXM", 3, (1, 3))
    model = registry.get("LXM")
    assert ([v.version for v in model.versions], model.current) == ([2, 3], 3)
    assert released(registry, 4).version == 4


def test_nothing_is_forgotten_when_another_version_answers_by_now(registry: ModelRegistry) -> None:
    for number in (1, 2, 3):
        released(registry, number)
    registry.select("LXM", 1)
    assert not registry.forget("LXM", 3, (1, 2))
    assert len(registry.get("LXM").versions) == 3
    assert not registry.forget("NOBODY", None, (1,))


def test_elders_are_listed_also_when_none_of_their_versions_answers(
    registry: ModelRegistry,
) -> None:
    released(registry, 1)
    registry.open_version(job(1, elder="ABC"), MADE_OF, AT)
    registry.retire("LXM")
    assert registry.elders() == ["ABC", "LXM"]


def test_open_version_survives_a_delete(registry: ModelRegistry) -> None:
    """A running job has it; the job goes on, and its version answers afterwards."""
    released(registry, 1)
    opened = registry.open_version(job(2), MADE_OF, AT)
    assert registry.retire("LXM")
    assert [(v.version, v.ready) for v in registry.get("LXM").versions] == [(2, False)]
    registry.release("LXM", opened)
    assert registry.get("LXM").current == 2


def test_shutting_out_tells_a_version_that_was_released_before(registry: ModelRegistry) -> None:
    zombie = registry.open_version(job(1), MADE_OF, AT)
    assert registry.fence_off(job(1, fence=2)) is None
    with pytest.raises(LeaseLost):
        registry.release("LXM", zombie)
    made = released(registry, 2)
    found = registry.fence_off(job(2, fence=2))
    assert found is not None and (found.version, found.ready) == (made.version, True)
    assert registry.fence_off(job(1, elder="NOBODY")) is None


def begun(store: Store, registry: ModelRegistry) -> tuple[Ledger, Lease, ModelVersion]:
    """A job that a worker has, and its open version."""
    announcer = Announcer(lambda: AT, "en")
    ledger = Ledger(store, announcer, lease_s=60, fair_s=60, fence_off=registry.fence_off)
    ledger.accept([new_request(1, "LXM")])
    lease = ledger.claim("w1")
    assert lease is not None
    return ledger, lease, registry.open_version(lease.job, MADE_OF, AT)


def test_release_that_comes_late_finds_its_cancelled_job_shut(
    store: Store, registry: ModelRegistry
) -> None:
    """The last holder itself lost the connection while it released, and gave the job back."""
    ledger, lease, opened = begun(store, registry)
    ledger.release(lease, wait_s=0, count_attempt=False)
    assert ledger.cancel(lease.job.id).status == "cancelled"
    with pytest.raises(LeaseLost):
        registry.release("LXM", opened)
    assert registry.get("LXM").current is None


def test_worker_held_up_in_publishing_cannot_release_under_a_cancelled_job(
    store: Store, registry: ModelRegistry
) -> None:
    """Its successor gave the job back before it had looked at the registry at all."""
    ledger, first, opened = begun(store, registry)
    store["jobs"].update_one({"_id": first.job.id}, {"$set": {"lease_until": AT}})
    second = ledger.claim("w2")
    assert second is not None
    ledger.release(second, wait_s=0, count_attempt=False)
    assert ledger.cancel(first.job.id).status == "cancelled"
    with pytest.raises(LeaseLost):
        registry.release("LXM", opened)
    assert registry.get("LXM").current is None
