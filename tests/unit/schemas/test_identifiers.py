"""Ids that may reach a path, a query or a model name."""

import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.identifiers import (
    ElderId,
    JobId,
    RequestedJobId,
    candidate_tag,
    current_tag,
    handed_over,
    handover_tag,
    is_elder_id,
    is_passing,
    job_id_for,
    model_tag,
    numbered,
)

ELDER_ID: TypeAdapter[str] = TypeAdapter(ElderId)
JOB_ID: TypeAdapter[str] = TypeAdapter(JobId)
REQUESTED: TypeAdapter[str] = TypeAdapter(RequestedJobId)


def is_read(adapter: TypeAdapter[str], text: object) -> bool:
    try:
        return adapter.validate_python(text, strict=True) == text
    except ValidationError:
        return False


@pytest.mark.parametrize("text", ["LXM19580312F", "a", "7", "A_b-C", "x" * 64])
def test_elder_id_is_taken(text: str) -> None:
    assert is_read(ELDER_ID, text)
    assert is_elder_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 65,
        "LXM\n",
        "\nLXM",
        "LXM\r",
        "LXM\0",
        "../x",
        "..",
        ".",
        "a/b",
        "a\\b",
        "a.b",
        "a:b",
        "a b",
        "$ne",
        "_a",
        "-a",
        "李秀梅",
        "ＬＸＭ",
        "٣",
        "%2e%2e",
        "a\u200b",
    ],
)
def test_elder_id_is_refused(text: str) -> None:
    assert not is_read(ELDER_ID, text)
    assert not is_elder_id(text)


@pytest.mark.parametrize("value", [None, 5, True, ["LXM"], {"$ne": None}, b"LXM"])
def test_elder_id_is_text_and_nothing_else(value: object) -> None:
    assert not is_read(ELDER_ID, value)


@pytest.mark.parametrize("text", ["", "../x", "a/b", "a\n", ".hidden", "x" * 129])
def test_job_id_is_refused(text: str) -> None:
    assert not is_read(JOB_ID, text)


def test_job_id_of_the_senders_choice_leaves_room_for_a_suffix() -> None:
    longest = "x" * 100
    assert is_read(REQUESTED, longest)
    assert not is_read(REQUESTED, longest + "x")
    assert is_read(JOB_ID, f"{longest}_{10**6}")


def test_names_are_built_as_documented() -> None:
    assert job_id_for("LXM19580312M", 1734512345) == "LXM19580312M_1734512345"
    assert numbered("LXM19580312M_1734512345", 1) == "LXM19580312M_1734512345"
    assert numbered("LXM19580312M_1734512345", 2) == "LXM19580312M_1734512345_2"
    assert model_tag("LXM", 3) == "afs_elder_LXM:v3"
    assert current_tag("LXM") == "afs_elder_LXM:latest"
    assert candidate_tag("LXM", 3, 7) != candidate_tag("LXM", 3, 8)


def test_names_for_a_moment_are_told_from_those_that_stay() -> None:
    handover = handover_tag(model_tag("LXM", 3), "0a1b2c3d")
    assert handed_over(handover) == model_tag("LXM", 3)
    assert is_passing(handover) and is_passing(candidate_tag("LXM", 3, 7))
    for tag in (model_tag("LXM", 3), current_tag("LXM"), "llama3:v1-handover", "a:v1-handoverXY"):
        assert handed_over(tag) is None
        assert not is_passing(tag)
