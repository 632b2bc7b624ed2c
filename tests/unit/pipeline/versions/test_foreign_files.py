"""What retention leaves alone: links, unknown names, elders that the registry does not know."""

from pathlib import Path

import pytest

from pipeline.storage.files import write_file
from schemas.identifiers import model_tag
from tests.unit.pipeline.versions.house import DAY_S, ELDER, House, sha


def data_sets(house: House, elder: str, *numbers: int) -> None:
    """Write data sets of an elder; the last is the newest."""
    for number in numbers:
        write_file(house.folder / "jsonl" / elder / f"{sha(number)}.jsonl", b"{}")
    house.newest[elder] = sha(numbers[-1])


def test_of_an_elder_who_was_never_trained_old_data_sets_go(house: House) -> None:
    """Each change of an elder's answers leaves a data set."""
    data_sets(house, "NEW", 101, 102)
    _, tags, files = house.state()
    assert house.retention().elders() == [ELDER, "NEW"]
    house.retention(later_s=DAY_S / 2).prune("NEW")
    assert house.state() == ([1, 2, 3, 4], tags, files)
    house.retention().prune("NEW")
    _, tags_after, left = house.state()
    assert tags_after == tags
    assert set(files) - set(left) == {f"jsonl/NEW/{sha(101)}.jsonl"}


@pytest.mark.parametrize("has", ["tag", "adapter"])
def test_elder_who_was_trained_and_whom_the_registry_does_not_know_is_left_alone(
    house: House, has: str
) -> None:
    """Perhaps half a database was restored: what a version was made from must stay."""
    data_sets(house, "NEW", 101, 102)
    if has == "tag":
        house._create(model_tag("NEW", 1))
    else:
        write_file(house.attempt(1, "NEW") / "adapter" / "adapter.gguf", b"x")
    before = house.state()
    assert house.retention().prune("NEW") is None
    assert house.state() == before


def test_no_link_is_followed_and_nothing_elsewhere_is_touched(house: House, tmp_path: Path) -> None:
    """Links are not followed in place of a job, attempt or data set, nor inside removed folders."""
    elsewhere = tmp_path / "elsewhere" / "1" / "checkpoint-00000001"
    write_file(elsewhere / "precious", b"x")
    elder = house.folder / "adapters" / ELDER
    house.jobs[f"{ELDER}_9"] = "failed"
    (elder / f"{ELDER}_9").symlink_to(elsewhere.parent.parent)
    (elder / f"{ELDER}_1" / "7").symlink_to(elsewhere.parent)
    (house.attempt(1) / "checkpoint-00000002").symlink_to(elsewhere)
    (house.attempt(1) / "checkpoint-00000001" / "inside").symlink_to(elsewhere)
    data_link = f"{sha(777)}.jsonl"
    (house.folder / "jsonl" / ELDER / data_link).symlink_to(elsewhere / "precious")
    house.retention().prune(ELDER)
    assert (elsewhere / "precious").read_bytes() == b"x"
    assert not (house.attempt(1) / "checkpoint-00000001").exists()
    links = (elder / f"{ELDER}_9", elder / f"{ELDER}_1" / "7")
    in_lists = house.attempt(1) / "checkpoint-00000002", house.folder / "jsonl" / ELDER
    assert all(link.is_symlink() for link in (*links, in_lists[0], in_lists[1] / data_link))


def test_elders_folder_that_became_a_link_after_the_look_is_not_entered(house: House) -> None:
    retention = house.retention()
    removal = retention.plan(ELDER)
    assert removal is not None and removal.items
    for root in ("adapters", "jsonl"):
        real = house.folder / root / ELDER
        real.rename(house.folder / f"{root}-moved")
        real.symlink_to(house.folder / f"{root}-moved")
    done = retention.apply(removal)
    assert done is not None and done.items == ()
    assert (house.folder / "adapters-moved" / f"{ELDER}_1" / "1" / "adapter").is_dir()


def test_unknown_names_are_left_alone(house: House) -> None:
    strange = [
        house.folder / "jsonl" / ELDER / "notes.txt",
        house.folder / "adapters" / ELDER / "README",
        house.folder / "adapters" / ELDER / f"{ELDER}_1" / "notes" / "x",
    ]
    for path in strange:
        write_file(path, b"x")
    house.retention().prune(ELDER)
    assert all(path.is_file() for path in strange)
