"""`latest` follows the registry, even where a process is suspended or killed at any call.

Each act is interrupted at every call that it makes to the registry or to Ollama: another act runs
there from beginning to end, and then the first one resumes, or is killed.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipeline.versions.latest import bring_latest
from pipeline.versions.manager import ModelManager
from schemas.documents import ElderModel, ModelVersion
from schemas.errors import ModelNotReady, UnknownVersion
from schemas.identifiers import current_tag, handover_tag, is_passing, model_tag
from tests.fakes.clock import NOW
from tests.fakes.hosting import FakeModelHost
from tests.fakes.jobs import MemoryForms
from tests.fakes.registry import MemoryRegistry

ELDER = "LXM"
LATEST = current_tag(ELDER)
CALLS = {
    "host": ("copy", "delete", "tags", "has"),
    "registry": (
        "find",
        "get",
        "select",
        "retire",
        "release",
        "note_passing",
        "drop_passing",
    ),
}


class Killed(BaseException):
    """The process was killed."""


class House:
    """An elder with three released versions, of which the last is current, and an open fourth."""

    def __init__(self) -> None:
        self.host = FakeModelHost()
        self.registry = MemoryRegistry()
        self.manager = ModelManager(self.registry, self.host, MemoryForms())  # type: ignore[arg-type]
        self.before_call: Callable[[], None] = lambda: None
        versions = tuple(version(number, ready=number < 4) for number in range(1, 5))
        self.registry._models[ELDER] = ElderModel(
            id=ELDER, elder_name="李", current=3, next_version=5, versions=versions
        )
        for one in versions:
            self.host.ensure_base(one.tag, Path(one.tag))
        self.host.copy(model_tag(ELDER, 3), LATEST)
        for owner, names in CALLS.items():
            for name in names:
                self._watch(getattr(self, owner), name)

    def _watch(self, owner: Any, name: str) -> None:
        act = getattr(owner, name)

        def watched(*args: Any, **fields: Any) -> Any:
            self.before_call()
            return act(*args, **fields)

        setattr(owner, name, watched)

    def follow(self) -> None:
        bring_latest(self.registry, self.host, ELDER)  # type: ignore[arg-type]

    def release(self) -> None:
        """As a worker does at the end of its job."""
        self.registry.release(ELDER, version(4, ready=False))
        self.follow()

    @property
    def said(self) -> str | None:
        """The current version's tag, according to the registry."""
        serving = self.registry._models[ELDER].serving
        return serving.tag if serving is not None else None

    @property
    def served(self) -> str | None:
        """The version whose model `latest` is."""
        found = self.host._models.get(LATEST.lower())
        return str(found[1]) if found is not None else None

    def passing(self) -> list[str]:
        """Temporary tags, which should be gone after each act."""
        return [name for name, _ in self.host._models.values() if is_passing(name)]


def version(number: int, *, ready: bool) -> ModelVersion:
    return ModelVersion(
        version=number,
        job_id=f"{ELDER}_{number}",
        fence=1,
        ready=ready,
        tag=model_tag(ELDER, number),
        base_model="b",
        method="lora",
        recipe_sha256="a" * 64,
        dataset_sha256="b" * 64,
        created_at=NOW,
    )


ACTS: dict[str, Callable[[House], object]] = {
    "follow": House.follow,
    "release": House.release,
    "rollback to 1": lambda house: house.manager.rollback(ELDER, 1, "family/1"),
    "rollback to 2": lambda house: house.manager.rollback(ELDER, 2, "family/2"),
    "delete": lambda house: house.manager.delete_model(ELDER, "family/3"),
}
PAIRS = [(a, b) for a in ACTS for b in ACTS if a != b]


def act(house: House, name: str) -> None:
    """Act; where the model was deleted, a rollback may find nothing to go back to."""
    with suppress(ModelNotReady, UnknownVersion):
        ACTS[name](house)


def interrupted(first: str, intruder: Callable[[House], object]) -> Iterator[House]:
    """Do an act once for each of its calls, with an intruder before that call; yield the house."""
    for at in count():
        house, calls = House(), count()

        def interrupt(house: House = house, at: int = at, calls: Iterator[int] = calls) -> None:
            if next(calls) == at:
                house.before_call = lambda: None
                intruder(house)

        house.before_call = interrupt
        with suppress(Killed):
            act(house, first)
        if next(calls) <= at:
            return
        yield house


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_acts_that_cross_leave_latest_at_what_the_registry_says(
    first: str, second: str
) -> None:
    for house in interrupted(first, lambda house: act(house, second)):
        assert house.served == house.said
        assert house.passing() == []


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_act_cut_short_anywhere_is_mended_by_the_next_of_any_kind(first: str, second: str) -> None:
    def die(house: House) -> None:
        raise Killed

    for house in interrupted(first, die):
        house.before_call = lambda: None
        try:
            ACTS[second](house)
        except ModelNotReady:
            house.follow()  # It was deleted: the rollback is refused and changes nothing.
        assert house.served == house.said
        assert house.passing() == []


@pytest.mark.parametrize("second", [name for name in ACTS if name != "follow"])
def test_zombie_that_wakes_up_brings_nothing_older_back_for_a_moment(second: str) -> None:
    """So it may also be killed at any time after it resumed."""

    def look(house: House) -> None:
        assert house.served == house.said

    def others(house: House) -> None:
        ACTS[second](house)
        house.before_call = lambda: look(house)

    for house in interrupted("follow", others):
        assert house.served == house.said


def test_zombie_does_nothing_where_its_version_answers_again() -> None:
    """After a rollback and another back, its version is current again."""

    def others(house: House) -> None:
        house.manager.rollback(ELDER, 1)
        house.manager.rollback(ELDER, 3)

    for house in interrupted("follow", others):
        assert house.served == house.said == model_tag(ELDER, 3)


def test_elder_whom_the_registry_does_not_know_keeps_latest() -> None:
    house = House()
    del house.registry._models[ELDER]
    house.follow()
    assert house.served == model_tag(ELDER, 3)


def test_version_that_ollama_lost_is_told_and_latest_stays() -> None:
    house = House()
    house.host.delete(model_tag(ELDER, 3))
    with pytest.raises(ModelNotReady):
        house.follow()
    assert house.served == model_tag(ELDER, 3)


@pytest.mark.parametrize("number", [1, 3])
def test_handover_left_by_a_dead_process_is_removed_by_the_next(number: int) -> None:
    house = House()
    left = handover_tag(model_tag(ELDER, number), "dead")
    house.registry.note_passing(ELDER, left)
    house.host.copy(model_tag(ELDER, number), left)
    house.follow()
    assert house.passing() == []


def test_latest_follows_without_the_list_of_all_models() -> None:
    """With a hundred thousand elders that list is tens of megabytes."""
    house = House()
    house.follow()
    house.manager.rollback(ELDER, 1)
    house.follow()
    assert "tags" not in {call[0] for call in house.host.calls}
