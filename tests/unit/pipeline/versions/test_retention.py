"""Old versions are removed from the registry, the host and the disk, in this order."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.files import write_file
from schemas.identifiers import current_tag, handover_tag, model_tag
from tests.unit.pipeline.versions.house import ELDER, House, sha


class Crash(Exception):
    """The process crashes."""


def test_old_versions_go_with_their_tags_adapters_checkpoints_and_data_sets(house: House) -> None:
    house.retention().prune(ELDER)
    versions, tags, files = house.state()
    assert versions == [3, 4]
    assert tags == [
        "afs_elder_LXM:latest",
        "afs_elder_LXM:v3",
        "afs_elder_LXM:v4",
        "afs_elder_OTHER:v1",
        "base:latest",
    ]
    mine = [f for f in files if "OTHER" not in f]
    assert mine == [
        *(f"adapters/LXM/LXM_{n}/1/adapter/adapter.gguf" for n in (3, 4)),
        *(f"jsonl/LXM/{sha(100 + n)}.{s}" for n in (3, 4) for s in ("jsonl", "manifest.json")),
    ]
    assert house.is_sound()
    assert house.retention().prune(ELDER) is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_death_at_any_step_leaves_only_garbage_that_the_next_round_removes(
    tmp_path: Path, when: str
) -> None:
    whole = House(tmp_path / "whole")
    whole.retention().prune(ELDER)
    for step in count():
        house = House(tmp_path / f"{when}-{step}")
        calls = count()

        def dying(act: Callable[..., Any], at: int = step, calls: Any = calls) -> Any:
            def acting(*args: Any) -> Any:
                dies = next(calls) == at
                if dies and when == "before":
                    raise Crash
                result = act(*args)
                if dies:
                    raise Crash
                return result

            return acting

        owners: list[tuple[Any, str]] = [
            (house.registry, "forget"),
            (house.host, "delete"),
            (house.inventory, "remove"),
        ]
        for owner, name in owners:
            setattr(owner, name, dying(getattr(owner, name)))
        retention = house.retention()
        try:
            retention.prune(ELDER)
        except Crash:
            assert house.is_sound()
            retention.prune(ELDER)
        else:
            break
        assert house.is_sound()
        assert house.state() == whole.state()
    assert step > 10


def test_latest_that_a_death_left_behind_is_brought_after_the_registry(house: House) -> None:
    """A process was killed between registry and copy; it helps where nothing else is to do, too."""
    house.retention().prune(ELDER)
    house.host.copy(model_tag(ELDER, 3), current_tag(ELDER))
    handover = handover_tag(model_tag(ELDER, 4), "a1")
    house.host.copy(model_tag(ELDER, 4), handover)
    house.retention().prune(ELDER)
    wanted = house.host.definition(model_tag(ELDER, 4))
    assert house.host.definition(current_tag(ELDER)) is wanted
    assert handover not in house.host.tags()
    house.host.delete(current_tag(ELDER))
    assert house.retention().prune(ELDER) is None
    assert house.host.definition(current_tag(ELDER)) is wanted


def test_latest_of_a_deleted_model_goes_and_of_a_lost_version_stays(house: House) -> None:
    house.host.delete(model_tag(ELDER, 4))
    house.retention().prune(ELDER)
    assert current_tag(ELDER) in house.host.tags()
    house.registry.retire(ELDER)
    house.retention().prune(ELDER)
    assert not [tag for tag in house.host.tags() if tag.startswith(f"afs_elder_{ELDER}:")]


def test_rollback_in_between_goes_before(house: House) -> None:
    """The two newest were to stay, when the family went back to the first."""
    retention = house.retention()
    removal = retention.plan(ELDER)
    assert removal is not None and removal.versions == (1, 2)
    house.registry.select(ELDER, 1)
    before = house.state()
    assert retention.apply(removal) is None
    assert house.state() == before
    retention.prune(ELDER)
    assert [v.version for v in house.registry.get(ELDER).versions] == [1, 4]


def test_data_set_written_again_in_between_stays(house: House) -> None:
    """A job that begins now builds a data set with the hash of one about to be removed."""
    retention = house.retention()
    removal = retention.plan(ELDER)
    assert removal is not None
    path = house.folder / "jsonl" / ELDER / f"{sha(101)}.jsonl"
    assert path.name in {i.path[-1] for i in removal.items}
    write_file(path, b"{}")
    retention.apply(removal)
    assert path.exists()


def test_within_the_grace_no_data_set_and_no_remains_go(house: House) -> None:
    house.retention(later_s=3600).prune(ELDER)
    assert len(list((house.folder / "jsonl" / ELDER).iterdir())) == 8
    assert len(list((house.folder / "adapters" / ELDER).rglob(".partial-x"))) == 4
    assert not list((house.folder / "adapters" / ELDER).rglob("checkpoint-*"))


def test_running_job_keeps_its_checkpoints_and_all_data_sets(house: House) -> None:
    house.jobs[f"{ELDER}_2"] = "running"
    house.retention().prune(ELDER)
    assert (house.attempt(2) / "checkpoint-00000001").exists()
    assert (house.attempt(2) / "adapter").exists()
    assert len(list((house.folder / "jsonl" / ELDER).iterdir())) == 8
    assert not (house.attempt(1)).exists()


def test_of_several_adapters_of_a_job_the_one_that_was_released_stays(house: House) -> None:
    second = house.attempt(4).parent / "2" / "adapter" / "adapter.gguf"
    write_file(second, b"of an attempt that lost its lease")
    house.retention().prune(ELDER)
    assert not second.exists()
    assert house.is_sound()


def test_elder_whom_the_registry_does_not_know_is_left_alone(house: House) -> None:
    """A wrong database in the settings must not empty the disk."""
    before = house.state()
    assert house.retention().elders() == [ELDER]
    for elder_id in ("OTHER", "..", ".", "", "LXM/.."):
        assert house.retention().prune(elder_id) is None
    assert house.state() == before
