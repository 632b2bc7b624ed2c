"""Properties of the retention rule: what must stay, and that an interrupted round is completed."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import RetentionSettings
from pipeline.versions.inventory import Item, Kind
from pipeline.versions.retention import Removal, Seen, decide
from schemas.documents import ElderModel, ModelVersion
from schemas.identifiers import candidate_tag, current_tag, handover_tag, model_tag
from tests.unit.pipeline.versions.house import DAY_S, ELDER, sha, version

NOW_S = 2_000_000_000.0
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled", None)
OPEN = ("queued", "running")
RELAXED = settings(max_examples=300, deadline=None)


def item(kind: Kind, *path: str, age_s: float = 0, **fields: Any) -> Item:
    root = "jsonl" if kind == "dataset" else "adapters"
    modified_ns = int((NOW_S - age_s) * 1e9)
    return Item.model_validate(
        {"root": root, "path": path, "kind": kind, "modified_ns": modified_ns, "size_bytes": 1}
        | fields
    )


@st.composite
def sights(draw: st.DrawFn) -> Seen:
    """Draw anything that can be seen of an elder, however improbable."""
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
    """Return the current version, the target of a bare rollback, and the newest `kept`."""
    released = sorted(v.version for v in model.versions if v.ready)
    before = [n for n in released if model.current is not None and n < model.current]
    answering = [model.current] if model.current is not None else []
    return {*answering, *before[-1:], *before[-kept:], *released[-kept:]}


def needs(seen: Seen, one: ModelVersion) -> set[tuple[str, ...]]:
    """Return the paths that a version needs: its data set and its adapter."""
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
    """Queued jobs too: they may be between two attempts."""
    removal = decide(seen, RetentionSettings(versions=1))
    open_jobs = {job for job, status in seen.jobs.items() if status in OPEN}
    assert not [i for i in removal.items if i.job_id in open_jobs]
    unreleased = {v.version for v in seen.model.versions if v.job_id in open_jobs and not v.ready}
    assert not unreleased & set(removal.versions)
    assert not {model_tag(ELDER, number) for number in unreleased} & set(removal.tags)
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
    """However many of its steps were done, the next round does exactly the rest."""
    rule = RetentionSettings(versions=1)
    whole = decide(seen, rule)
    versions = whole.versions if steps > 0 else ()
    tags = whole.tags[: max(0, steps - 1)]
    items = whole.items[: max(0, steps - 1 - len(whole.tags))]
    part = whole.model_copy(update={"versions": versions, "tags": tags, "items": items})
    broken_off = after(seen, part)
    assert after(broken_off, decide(broken_off, rule)) == after(seen, whole)
