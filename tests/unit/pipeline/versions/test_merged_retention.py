"""Retention of merged files, which are large: all but two per elder are removed."""

import pytest

from schemas.documents import VersionForm
from schemas.identifiers import current_tag, model_tag
from tests.fakes.clock import NOW
from tests.unit.pipeline.versions.house import ELDER, House


class Killed(BaseException):
    """The process was killed."""


def merged(house: House, *numbers: int) -> None:
    """Record a merged form for the versions `numbers`."""
    form = VersionForm(form="merged", size_bytes=10**9, made_at=NOW)
    for number in numbers:
        house.registry.record_form(ELDER, number, form)


def test_of_merged_files_only_what_answers_and_the_one_before_stay(house: House) -> None:
    merged(house, 1, 2, 3, 4)
    removal = house.retention(versions=4).prune(ELDER)
    assert removal is not None and removal.forms == (1, 2)
    versions, tags, _ = house.state()
    # Adapters stay: a rollback makes the form again.
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
    """Otherwise an unaccounted file of the base's size would stay in the host for ever."""
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
    """The job may be about to make that version current."""
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
