"""The rule of retention, for whatever is seen; and that a death while it is applied is harmless."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import RetentionSettings
from pipeline.hosting.port import ServedModel
from pipeline.storage.files import hash_file, write_file
from pipeline.versions.inventory import Inventory, Item, Kind
from pipeline.versions.retention import Removal, Retention, Seen, decide
from schemas.documents import ElderModel, ModelVersion, VersionForm
from schemas.identifiers import candidate_tag, current_tag, handover_tag, model_tag
from tests.fakes.clock import NOW
from tests.fakes.hosting import FakeModelHost
from tests.fakes.registry import MemoryRegistry

ELDER = "LXM"
NOW_S = 2_000_000_000.0
DAY_S = 86_400.0
AT = datetime(2026, 1, 1, tzinfo=UTC)
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled", None)
OPEN = ("queued", "running")
RELAXED = settings(max_examples=300, deadline=None)


def sha(number: int) -> str:
    return f"{number:064x}"


def version(number: int, *, ready: bool = True, fence: int = 1, **fields: Any) -> ModelVersion:
    return ModelVersion.model_validate(
        {
            "version": number,
            "job_id": f"{ELDER}_{number}",
            "fence": fence,
            "ready": ready,
            "tag": model_tag(ELDER, number),
            "base_model": "b",
            "method": "lora",
            "recipe_sha256": sha(1),
            "dataset_sha256": sha(100 + number),
            "gguf_sha256": sha(200 + number) if ready else None,
            "created_at": AT,
        }
        | fields
    )


def item(kind: Kind, *path: str, age_s: float = 0, **fields: Any) -> Item:
    root = "jsonl" if kind == "dataset" else "adapters"
    modified_ns = int((NOW_S - age_s) * 1e9)
    return Item.model_validate(
        {"root": root, "path": path, "kind": kind, "modified_ns": modified_ns, "size_bytes": 1}
        | fields
    )


@st.composite
def sights(draw: st.DrawFn) -> Seen:
    """Anything that can be seen of an elder, the improbable included."""
    numbers = range(1, draw(st.integers(1, 9)))
    versions = tuple(
        version(n, ready=draw(st.booleans()), dataset_sha256=sha(100 + draw(st.integers(0, 5))))
        for n in numbers
        if draw(st.booleans())
    )
    ready = [v.version for v in versions if v.ready]
    current = draw(st.sampled_from([None, *ready]))
    jobs = {f"{ELDER}_{n}": draw(st.sampled_from(STATUSES)) for n in range(1, 12)}
    ages = st.sampled_from([0.0, DAY_S / 2, DAY_S, 9 * DAY_S, -DAY_S])
    items: list[Item] = []
    for job in jobs:
        number = int(job.rpartition("_")[2])
        for fence in range(1, draw(st.integers(1, 4))):
            path = (ELDER, job, str(fence))
            gguf = draw(st.sampled_from([None, sha(200 + number), sha(999)]))
            found = {
                "adapter": item(
                    "adapter", *path, "adapter", age_s=draw(ages), job_id=job, sha256=gguf
                ),
                "work": item("work", *path, "checkpoint-00000001", age_s=draw(ages), job_id=job),
                "remains": item("remains", *path, ".partial-x", age_s=draw(ages), job_id=job),
            }
            items += [found[name] for name in draw(st.sets(st.sampled_from(sorted(found))))]
    for number in draw(st.sets(st.integers(0, 7))):
        name = sha(100 + number)
        items.append(item("dataset", ELDER, f"{name}.jsonl", age_s=draw(ages), sha256=name))
    names = [
        current_tag(ELDER),
        *(model_tag(ELDER, n) for n in range(1, 14)),
        *(candidate_tag(ELDER, n, 2) for n in range(1, 10)),
        *(handover_tag(model_tag(ELDER, n), "a1") for n in range(1, 10)),
        model_tag("LXM2", 1),
        "afs_elder_LX:v1",
        "llama3:v1",
    ]
    return Seen(
        model=ElderModel(
            id=ELDER, elder_name="李", current=current, next_version=10, versions=versions
        ),
        jobs={job: status for job, status in jobs.items() if status is not None},
        newest_dataset=draw(st.sampled_from([None, sha(103), sha(107)])),
        tags=tuple(draw(st.sets(st.sampled_from(names)))),
        items=tuple(items),
        now_s=NOW_S,
    )


def rollback_targets(model: ElderModel, kept: int) -> set[int]:
    """What answers, what a rollback without a number goes to, and the newest `kept`."""
    released = sorted(v.version for v in model.versions if v.ready)
    before = [n for n in released if model.current is not None and n < model.current]
    answering = [model.current] if model.current is not None else []
    return {*answering, *before[-1:], *before[-kept:], *released[-kept:]}


def needs(seen: Seen, one: ModelVersion) -> set[tuple[str, ...]]:
    """The files of a version: its data set, and the adapter it was made from."""
    adapters = [i for i in seen.items if i.kind == "adapter" and i.job_id == one.job_id]
    own = [i for i in adapters if i.sha256 == one.gguf_sha256] or adapters
    datasets = [i for i in seen.items if i.kind == "dataset" and i.sha256 == one.dataset_sha256]
    return {i.path for i in (*own, *datasets)}


@given(sights(), st.integers(1, 4))
@RELAXED
def test_what_answers_and_what_can_be_rolled_back_to_always_stays(seen: Seen, kept: int) -> None:
    removal = decide(seen, RetentionSettings(versions=kept))
    gone = {i.path for i in removal.items}
    for number in rollback_targets(seen.model, kept):
        one = seen.model.version(number)
        assert one is not None
        assert number not in removal.versions and one.tag not in removal.tags
        assert not needs(seen, one) & gone
    assert current_tag(ELDER) not in removal.tags


@given(sights())
@RELAXED
def test_what_an_unfinished_job_holds_always_stays(seen: Seen) -> None:
    """Queued ones too: they may be waiting between two attempts."""
    removal = decide(seen, RetentionSettings(versions=1))
    open_jobs = {job for job, status in seen.jobs.items() if status in OPEN}
    assert not [i for i in removal.items if i.job_id in open_jobs]
    held = {v.version for v in seen.model.versions if v.job_id in open_jobs and not v.ready}
    assert not held & set(removal.versions)
    assert not {model_tag(ELDER, number) for number in held} & set(removal.tags)
    if open_jobs:
        assert not [i for i in removal.items if i.kind == "dataset"]
        assert not [tag for tag in removal.tags if "candidate" in tag]


@given(sights())
@RELAXED
def test_nothing_of_others_and_nothing_unknown_and_young_goes(seen: Seen) -> None:
    removal = decide(seen, RetentionSettings(versions=1))
    assert all(tag.startswith(f"afs_elder_{ELDER}:") for tag in removal.tags)
    assert not {model_tag(ELDER, n) for n in range(10, 14)} & set(removal.tags)
    for one in removal.items:
        is_young = NOW_S - one.modified_ns / 1e9 < DAY_S
        assert not (is_young and (one.job_id is None or one.job_id not in seen.jobs))
    datasets = [i for i in seen.items if i.kind == "dataset"]
    newest_ns = max((i.modified_ns for i in datasets), default=0)
    left = set(datasets) - set(removal.items)
    assert left >= {i for i in datasets if i.sha256 == seen.newest_dataset}
    assert not datasets or [i for i in left if i.modified_ns == newest_ns]


def after(seen: Seen, removal: Removal) -> Seen:
    left = tuple(v for v in seen.model.versions if v.version not in removal.versions)
    return seen.model_copy(
        update={
            "model": seen.model.model_copy(update={"versions": left}),
            "tags": tuple(t for t in seen.tags if t not in removal.tags),
            "items": tuple(i for i in seen.items if i not in removal.items),
        }
    )


@given(sights(), st.integers(1, 4))
@RELAXED
def test_a_second_round_finds_nothing_to_do(seen: Seen, kept: int) -> None:
    rule = RetentionSettings(versions=kept)
    assert decide(after(seen, decide(seen, rule)), rule).is_empty


@given(sights(), st.integers(0, 200))
@RELAXED
def test_a_round_broken_off_anywhere_is_ended_by_the_next(seen: Seen, steps: int) -> None:
    """Registry, tags, files: whatever was done of it, the next round does the rest and no more."""
    rule = RetentionSettings(versions=1)
    whole = decide(seen, rule)
    versions = whole.versions if steps > 0 else ()
    tags = whole.tags[: max(0, steps - 1)]
    items = whole.items[: max(0, steps - 1 - len(whole.tags))]
    part = whole.model_copy(update={"versions": versions, "tags": tags, "items": items})
    broken_off = after(seen, part)
    assert after(broken_off, decide(broken_off, rule)) == after(seen, whole)


# Its application ------------------------------------------------------------------------------


class Crash(Exception):
    """The process dies here."""


class Killed(BaseException):
    """The process is gone."""


class House:
    """An elder's folders, registry and Ollama, with what four trainings left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = FakeModelHost()
        self.registry = MemoryRegistry()
        self.jobs: dict[str, str] = {}
        self.newest: dict[str, str] = {}
        self.inventory = Inventory(folder / "jsonl", folder / "adapters")
        self.host.ensure_base("base", folder)
        versions = tuple(self._train(ELDER, number) for number in range(1, 5))
        for tag in (*(v.tag for v in versions), current_tag(ELDER), candidate_tag(ELDER, 2, 1)):
            self._create(tag)
        self.registry._models[ELDER] = ElderModel(
            id=ELDER,
            elder_name="李",
            current=4,
            next_version=5,
            versions=versions,
            passing=(candidate_tag(ELDER, 2, 1),),
        )
        self._train("OTHER", 1)
        self._create(model_tag("OTHER", 1))
        write_file(self.attempt(3).parent / "2" / "checkpoint-00000003" / "w", b"left")

    def _create(self, tag: str) -> None:
        recipe = ServedModel(form="plain", base="base", system="", template="", stop=())
        self.host.create(tag, recipe)

    def attempt(self, number: int, elder: str = ELDER) -> Path:
        return self.folder / "adapters" / elder / f"{elder}_{number}" / "1"

    def _train(self, elder: str, number: int) -> ModelVersion:
        attempt = self.attempt(number, elder)
        gguf = write_file(attempt / "adapter" / "adapter.gguf", f"{elder}{number}".encode())
        write_file(attempt / "checkpoint-00000001" / "w", b"w")
        write_file(attempt / ".partial-x", b"x")
        data = self.folder / "jsonl" / elder
        for suffix in ("jsonl", "manifest.json"):
            write_file(data / f"{sha(100 + number)}.{suffix}", b"{}")
        self.jobs[f"{elder}_{number}"] = "succeeded"
        return version(number, gguf_sha256=gguf)

    def retention(self, *, later_s: float = 2 * DAY_S, versions: int = 1) -> Retention:
        ledger = SimpleNamespace(
            statuses=lambda e: {j: s for j, s in self.jobs.items() if j.startswith(f"{e}_")}
        )
        datasets = SimpleNamespace(
            find=lambda e: {"sha256": n, "elder_name": "李"} if (n := self.newest.get(e)) else None,
            elders=lambda: sorted(self.newest),
        )
        newest = max(p.stat().st_mtime for p in self.folder.rglob("*"))
        return Retention(
            self.registry,  # type: ignore[arg-type]
            ledger,  # type: ignore[arg-type]
            datasets,  # type: ignore[arg-type]
            self.host,
            self.inventory,
            RetentionSettings(versions=versions),
            lambda: newest + later_s,
        )

    def state(self) -> tuple[list[int], list[str], list[str]]:
        files = [str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()]
        versions = [v.version for v in self.registry.get(ELDER).versions]
        return versions, sorted(self.host.tags()), sorted(files)

    def is_sound(self) -> bool:
        """Each version in the registry can answer and be built again; no other elder lost any."""
        model = self.registry.get(ELDER)
        tags = set(self.host.tags())
        whole = all(
            v.tag in tags
            and hash_file(self.attempt(v.version) / "adapter" / "adapter.gguf") == v.gguf_sha256
            and (self.folder / "jsonl" / ELDER / f"{v.dataset_sha256}.jsonl").is_file()
            for v in model.versions
        )
        others = self.attempt(1, "OTHER") / "checkpoint-00000001" / "w"
        return (
            whole
            and model.current == 4
            and {current_tag(ELDER), model_tag("OTHER", 1)} <= tags
            and others.is_file()
            and {3, 4} <= {v.version for v in model.versions}
        )


def merged(house: House, *numbers: int) -> None:
    """Note that versions were merged; the others are as they were."""
    form = VersionForm(form="merged", size_bytes=10**9, made_at=NOW)
    for number in numbers:
        house.registry.record_form(ELDER, number, form)


def test_of_merged_files_only_what_answers_and_the_one_before_stay(house: House) -> None:
    merged(house, 1, 2, 3, 4)
    removal = house.retention(versions=4).prune(ELDER)
    assert removal is not None and removal.forms == (1, 2)
    versions, tags, _ = house.state()
    # Their adapters stay: the form is made again when somebody rolls back.
    assert versions == [1, 2, 3, 4]
    assert not {model_tag(ELDER, 1), model_tag(ELDER, 2)} & set(tags)
    assert {model_tag(ELDER, 3), model_tag(ELDER, 4), current_tag(ELDER)} <= set(tags)
    assert house.attempt(1).joinpath("adapter", "adapter.gguf").is_file()
    assert [v.forms for v in house.registry.get(ELDER).versions][:2] == [(), ()]
    assert house.retention(versions=4).plan(ELDER) == removal.model_copy(
        update={"forms": (), "tags": (), "items": ()}
    )


@pytest.mark.parametrize("call", ["delete", "forget_forms"])
def test_round_that_is_broken_off_leaves_no_merged_file_for_good(house: House, call: str) -> None:
    """A file of the base's size that nobody accounts for would stay in the host."""
    merged(house, 1, 2, 3, 4)
    owner = house.host if call == "delete" else house.registry
    act = getattr(owner, call)

    def die(*args: object) -> object:
        if call == "delete" and args[0] != model_tag(ELDER, 2):
            return act(*args)
        raise Killed

    setattr(owner, call, die)
    with pytest.raises(Killed):
        house.retention(versions=4).prune(ELDER, is_thorough=False)
    setattr(owner, call, act)
    house.retention(versions=4).prune(ELDER, is_thorough=False)
    tags = house.host.tags()
    assert not {model_tag(ELDER, 1), model_tag(ELDER, 2)} & set(tags)
    assert {model_tag(ELDER, 3), model_tag(ELDER, 4)} <= set(tags)


def test_adapters_are_small_and_stay_served(house: House) -> None:
    merged(house, 2)
    removal = house.retention(versions=4).prune(ELDER)
    assert removal is not None and (removal.forms, removal.versions) == ((2,), ())
    assert model_tag(ELDER, 1) in house.host.tags()


def test_merged_file_stays_while_a_job_may_need_it(house: House) -> None:
    """It may be about to let that version answer."""
    merged(house, 1, 2, 3, 4)
    house.jobs[f"{ELDER}_9"] = "queued"
    removal = house.retention(versions=4).plan(ELDER)
    assert removal is not None and removal.forms == ()


def test_merged_file_stays_where_a_rollback_went_before(house: House) -> None:
    merged(house, 1, 2, 3, 4)
    retention = house.retention(versions=4)
    removal = retention.plan(ELDER)
    assert removal is not None
    house.registry.select(ELDER, 1)
    assert retention.apply(removal) is None
    assert model_tag(ELDER, 1) in house.host.tags()


def test_round_after_a_job_asks_for_no_list_and_removes_the_same(house: House) -> None:
    merged(house, 1, 2, 3, 4)
    calls = len(house.host.calls)
    removal = house.retention().prune(ELDER, is_thorough=False)
    assert removal is not None
    assert "tags" not in {call[0] for call in house.host.calls[calls:]}
    thorough = house.retention().plan(ELDER)
    assert thorough is not None and not thorough.tags


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


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
    """Released or rolled back, and killed before the copy; also where nothing else is to do."""
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
    """The newest and the one before were to stay; the family went back to the first."""
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
    """A job that begins now builds the very bytes that were about to go."""
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
    """Another database in the settings must not empty the disk."""
    before = house.state()
    assert house.retention().elders() == [ELDER]
    for elder_id in ("OTHER", "..", ".", "", "LXM/.."):
        assert house.retention().prune(elder_id) is None
    assert house.state() == before


def data_sets(house: House, elder: str, *numbers: int) -> None:
    """Built one after the other; the last is the newest."""
    for number in numbers:
        write_file(house.folder / "jsonl" / elder / f"{sha(number)}.jsonl", b"{}")
    house.newest[elder] = sha(numbers[-1])


def test_of_an_elder_who_was_never_trained_old_data_sets_go(house: House) -> None:
    """Each change of her answers leaves one."""
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
    """Half a database was restored: what her version was made of must stay."""
    data_sets(house, "NEW", 101, 102)
    if has == "tag":
        house._create(model_tag("NEW", 1))
    else:
        write_file(house.attempt(1, "NEW") / "adapter" / "adapter.gguf", b"x")
    before = house.state()
    assert house.retention().prune("NEW") is None
    assert house.state() == before


def test_no_link_is_followed_and_nothing_elsewhere_is_touched(house: House, tmp_path: Path) -> None:
    """Not for a job, an attempt, a data set, nor inside of what is removed."""
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
