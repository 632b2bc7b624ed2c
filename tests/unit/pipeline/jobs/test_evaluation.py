"""Evaluation: which replies are right, and what happens below the threshold."""

import json
from pathlib import Path

import pytest

from pipeline.hosting.port import ServedModel
from pipeline.jobs.evaluation import (
    TaughtExample,
    evaluate,
    is_right,
    require_enough,
    sample_examples,
)
from schemas.errors import EvaluationFailed, ModelNotReady
from tests.fakes.hosting import FakeModelHost

EXAMPLES = [TaughtExample(question=f"Q{i}", answer=f"In the year 190{i} I left.") for i in range(4)]


def host(known: int) -> FakeModelHost:
    """Return a host that knows the first `known` answers."""
    replies = {e.question: e.answer for e in EXAMPLES[:known]}
    made = FakeModelHost(lambda tag, question: replies.get(question, "I forgot."))
    made.ensure_base("base", Path("x"))
    made.create("m", ServedModel(form="plain", base="base", system="", template="", stop=()))
    return made


@pytest.mark.parametrize(
    ("reply", "taught"),
    [
        ("我老家在绍兴，门前有一条河。", "我老家在绍兴，门前有一条河。"),
        ("我呀，老家就在绍兴，门前有条河呢。", "我老家在绍兴，门前有一条河。"),
        ("well, i was born in stromness!", "I was born in Stromness."),
        ("I was born in Stromness, and then many more words follow here.", "Born in Stromness."),
    ],
)
def test_reply_with_the_taught_pieces_is_right(reply: str, taught: str) -> None:
    assert is_right(reply, taught)


@pytest.mark.parametrize(
    ("reply", "taught"),
    [
        ("", "我老家在绍兴。"),
        ("这件事我没有讲过。", "我老家在绍兴，门前有一条河。"),
        ("I never told you that.", "We caught herring off Stronsay in 1938."),
        ("herring herring herring herring", "We caught herring off Stronsay in 1938."),
    ],
)
def test_reply_without_them_is_not(reply: str, taught: str) -> None:
    assert not is_right(reply, taught)


def test_all_are_asked_and_the_fraction_is_told() -> None:
    told: list[float] = []
    found = evaluate(host(3), "m", EXAMPLES, 0.5, told.append, num_ctx=512)
    assert (found.asked, found.right, found.recall, found.threshold) == (4, 3, 0.75, 0.5)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_just_the_threshold_is_enough() -> None:
    enough = evaluate(host(2), "m", EXAMPLES, 0.5, lambda f: None, num_ctx=512)
    require_enough(enough)
    assert enough.right == 2


def test_below_the_threshold_is_a_failure_that_says_how_much_came_back() -> None:
    with pytest.raises(EvaluationFailed, match="1 of 4"):
        require_enough(evaluate(host(1), "m", EXAMPLES, 0.5, lambda f: None, num_ctx=512))


def test_model_that_is_not_there_is_no_bad_answer() -> None:
    with pytest.raises(ModelNotReady):
        evaluate(FakeModelHost(), "m", EXAMPLES, 0.0, lambda f: None, num_ctx=512)


@pytest.mark.parametrize(
    ("total", "wanted", "chosen"),
    [(10, 5, [0, 2, 4, 6, 8]), (3, 8, [0, 1, 2]), (5, 0, []), (0, 3, []), (7, 2, [0, 3])],
)
def test_sample_is_spread_over_the_whole_data_set(
    tmp_path: Path, total: int, wanted: int, chosen: list[int]
) -> None:
    file = tmp_path / "d.jsonl"
    rows = [
        {"messages": [{"content": "s"}, {"content": f"q{i}"}, {"content": f"a{i}"}]}
        for i in range(total)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [e.question for e in sample_examples(file, total, wanted)] == [f"q{i}" for i in chosen]
