"""The models' registry on a real store: versions, fences, and which one answers."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.outbox import Announcer
from pipeline.storage.mongo import Store
from pipeline.versions.manager import ModelManager
from pipeline.versions.registry import DatasetRegistry, ModelRegistry
from schemas.documents import Job, ModelVersion
from schemas.errors import ElderIdClash, LeaseLost, ModelNotReady, UnknownVersion
from schemas.identifiers import current_tag
from tests.fakes.hosting import FakeModelHost
from tests.fakes.jobs import MemoryForms, make_job
from tests.ledger.witness import new_request

AT = datetime(2026, 1, 1, tzinfo=UTC)
MADE_OF = {
    "base_model": "b",
    "method": "lora",
    "recipe_sha256": "a" * 64,
    "dataset_sha256": "b" * 64,
}


@pytest.fixture
def registry(store: Store) -> ModelRegistry:
    return ModelRegistry(store)


def job(number: int, *, fence: int = 1, elder: str = "LXM") -> Job:
    return make_job(id=f"{elder}_{number}", request_id=str(number), fence=fence, elder_id=elder)


def released(registry: ModelRegistry, number: int) -> ModelVersion:
    version = registry.open_version(job(number), MADE_OF, AT)
    registry.release("LXM", version)
    return version


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


# -- the manager over the registry ------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


class Served:
    """Versions in the registry and in a host."""

    def __init__(self, registry: ModelRegistry) -> None:
        self.host = FakeModelHost()
        self.registry = registry
        self.forms = MemoryForms()
        self.manager = ModelManager(registry, self.host, self.forms)
        self.host.ensure_base("base", Path("x"))
        self._copy = self.host.copy
        self._select = registry.select
        self._before: dict[str, Callable[[], object]] = {}
        self.host.copy = self._watched_copy  # type: ignore[method-assign]
        registry.select = self._watched_select  # type: ignore[method-assign]

    @property
    def latest(self) -> str:
        """Whose weights `latest` has."""
        return str(self.host.definition(current_tag("LXM")))

    def before_next_copy_to_latest(self, act: Callable[[], object]) -> None:
        """Do something once somebody is about to copy to `latest`."""
        self._before["copy"] = act

    def before_next_select(self, act: Callable[[], object]) -> None:
        """Do something once somebody is about to change what answers."""
        self._before["select"] = act

    def _watched_copy(self, source: str, target: str) -> None:
        if target == current_tag("LXM"):
            self._before.pop("copy", lambda: None)()
        self._copy(source, target)

    def _watched_select(self, *args: Any, **fields: Any) -> bool:
        self._before.pop("select", lambda: None)()
        return self._select(*args, **fields)

    def version(self, number: int) -> None:
        """Make, release and serve a version; each is a model of its own."""
        made = released(self.registry, number)
        name = f"weights-{number}"
        self.host.ensure_base(name, Path(name))
        self.host.copy(name, made.tag)
        self.host.delete(name)
        self.host.copy(made.tag, current_tag("LXM"))


@pytest.fixture
def served(registry: ModelRegistry) -> Served:
    return Served(registry)


def test_rollback_lets_the_version_before_answer(served: Served) -> None:
    served.version(1)
    served.version(2)
    done = served.manager.rollback("LXM")
    assert done.model.current == 1
    assert served.host.definition(current_tag("LXM")) == Path("weights-1")
    assert served.manager.rollback("LXM", 2).model.current == 2
    assert served.host.definition(current_tag("LXM")) == Path("weights-2")


def test_rollback_that_is_asked_for_again_by_the_same_command_is_done_once(served: Served) -> None:
    """A command is delivered again when its member dies before the commit."""
    for number in (1, 2, 3):
        served.version(number)
    for _ in range(2):
        assert served.manager.rollback("LXM", request="family/7").model.current == 2
    assert served.manager.rollback("LXM", request="family/8").model.current == 1


def test_rollback_beyond_the_first_or_to_nothing_changes_nothing(served: Served) -> None:
    served.version(1)
    for number in (None, 7):
        with pytest.raises(UnknownVersion):
            served.manager.rollback("LXM", number)
    assert served.manager.get_model("LXM").current == 1


def test_deleted_model_is_gone_from_both_and_others_stay(served: Served) -> None:
    served.version(1)
    served.host.copy("base", "afs_elder_LXM2:latest")
    removed = served.manager.delete_model("LXM")
    assert sorted(removed) == ["afs_elder_LXM:latest", "afs_elder_LXM:v1"]
    assert served.manager.list_models() == ["afs_elder_LXM2:latest"]
    for act in (served.manager.get_model, served.manager.rollback, served.manager.delete_model):
        with pytest.raises(ModelNotReady):
            act("LXM")


def test_list_shows_the_elders_alone_or_all(served: Served) -> None:
    served.version(1)
    served.host.copy("base", "afs_elder_LXM:v2-candidate3")
    assert served.manager.list_models() == ["afs_elder_LXM:latest", "afs_elder_LXM:v1"]
    assert "base:latest" in served.manager.list_models(filter_afs_only=False)


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


def test_rollback_to_a_version_that_retention_took_in_between_leaves_latest_as_it_was(
    served: Served,
) -> None:
    served.version(1)
    served.version(2)
    has = served.host.has

    def forget_after(tag: str) -> bool:
        found = has(tag)
        served.registry.forget("LXM", 2, (1,))
        return found

    served.host.has = forget_after  # type: ignore[method-assign]
    with pytest.raises(UnknownVersion):
        served.manager.rollback("LXM", 1)
    assert served.latest == "weights-2"
    assert served.registry.get("LXM").current == 2


def test_rollback_to_a_version_that_ollama_lost_names_a_job_and_changes_nothing(
    served: Served,
) -> None:
    served.version(1)
    served.version(2)
    served.host.delete("afs_elder_LXM:v1")
    done = served.manager.rollback("LXM", 1, request="family/7")
    assert done.job_id == served.forms.jobs["family/7"].id
    assert (served.registry.get("LXM").current, served.latest) == (2, "weights-2")


# -- two at once, and commands that come again ------------------------------------------------


def test_rollbacks_that_cross_leave_latest_at_what_the_registry_says(served: Served) -> None:
    for number in (1, 2, 3):
        served.version(number)
    served.before_next_copy_to_latest(lambda: served.manager.rollback("LXM", 1))
    assert served.manager.rollback("LXM", 2).model.current == 1
    assert served.latest == "weights-1"


def test_two_rollbacks_without_a_number_go_back_two_versions(served: Served) -> None:
    """Each is a step back from what it finds, also if both look in the same moment."""
    for number in (1, 2, 3):
        served.version(number)
    served.before_next_select(lambda: served.manager.rollback("LXM", request="family/2"))
    served.manager.rollback("LXM", request="family/1")
    assert (served.registry.get("LXM").current, served.latest) == (1, "weights-1")


def test_one_rollback_at_two_members_at_once_is_done_once(served: Served) -> None:
    """The partition moved while the first member was at it."""
    for number in (1, 2, 3):
        served.version(number)
    served.before_next_select(lambda: served.manager.rollback("LXM", request="family/1"))
    assert served.manager.rollback("LXM", request="family/1").model.current == 2
    assert served.latest == "weights-2"


def test_rollback_cut_short_is_ended_by_the_command_that_comes_again(served: Served) -> None:
    for number in (1, 2, 3):
        served.version(number)

    def die() -> None:
        raise Killed

    served.before_next_copy_to_latest(die)
    with pytest.raises(Killed):
        served.manager.rollback("LXM", request="family/1")
    assert (served.registry.get("LXM").current, served.latest) == (2, "weights-3")
    assert served.manager.rollback("LXM", request="family/1").model.current == 2
    assert served.latest == "weights-2"


def test_delete_that_comes_again_leaves_a_model_trained_meanwhile(served: Served) -> None:
    served.version(1)
    gone = served.manager.delete_model("LXM", request="family/1")
    assert gone == ["afs_elder_LXM:latest", "afs_elder_LXM:v1"]
    served.version(2)
    assert served.manager.delete_model("LXM", request="family/1") == gone
    assert (served.registry.get("LXM").current, served.latest) == (2, "weights-2")
    assert served.manager.delete_model("LXM", request="family/2") == [
        "afs_elder_LXM:latest",
        "afs_elder_LXM:v2",
    ]


def test_delete_cut_short_is_ended_by_the_command_that_comes_again(served: Served) -> None:
    served.version(1)
    served.version(2)
    delete, left = served.host.delete, [1]

    def dying(tag: str) -> bool:
        if not left:
            raise Killed
        left.pop()
        return delete(tag)

    served.host.delete = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        served.manager.delete_model("LXM", request="family/1")
    served.host.delete = delete  # type: ignore[method-assign]
    assert len(served.manager.delete_model("LXM", request="family/1")) == 3
    assert served.manager.list_models() == []
    assert served.registry.get("LXM").current is None


def test_rollback_that_comes_again_after_a_delete_is_still_known_as_done(served: Served) -> None:
    served.version(1)
    served.version(2)
    served.manager.rollback("LXM", request="family/1")
    served.manager.delete_model("LXM", request="family/2")
    assert served.manager.rollback("LXM", request="family/1").model.current is None
    with pytest.raises(ModelNotReady):
        served.manager.rollback("LXM", request="family/3")


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
