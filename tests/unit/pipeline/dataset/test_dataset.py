"""Data sets are complete or absent, reproducible, and account for every answer."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.training import load_training_config
from pipeline.dataset.answers import AnswerSource
from pipeline.dataset.dataset import Dataset, JSONLBuilder
from pipeline.text.system_prompt import SystemPromptGenerator
from schemas.answers import Answer
from schemas.errors import ArtefactCorrupt, NoAnswers, StoreUnavailable, UnknownElder
from tests.fakes.answers import ListedAnswers

PAIRS = [
    ("您的老家在哪里？", "我老家在绍兴，门前有一条河。"),
    ("您父亲做什么？", "他是个木匠，做了一辈子桌椅。"),
    ("您父亲做什么？", "他是个木匠，做了一辈子桌椅。"),
    ("您几岁上学？", ""),
]


def builder(source: AnswerSource, folder: Path, *, length: int = 512) -> JSONLBuilder:
    prompts = SystemPromptGenerator(load_training_config().prompt_template)
    return JSONLBuilder(source, folder, prompts, memories=2, max_seq_length=length)


def build(
    folder: Path,
    pairs: list[tuple[str, str]],
    name: str = "李秀梅",
    *,
    length: int = 512,
) -> Dataset:
    with builder(ListedAnswers({"LXM": pairs}), folder, length=length) as opened:
        return opened.build_jsonl("LXM", name)


def lines(dataset: Dataset) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dataset.path.read_text(encoding="utf-8").splitlines()]


def test_line_is_one_chat_of_system_user_and_assistant(tmp_path: Path) -> None:
    dataset = build(tmp_path, PAIRS)
    assert [[m["role"] for m in line["messages"]] for line in lines(dataset)] == [
        ["system", "user", "assistant"]
    ] * 2
    system, user, assistant = lines(dataset)[0]["messages"]
    assert system["content"] == dataset.system_prompt
    assert (user["content"], assistant["content"]) == PAIRS[0]
    assert "李秀梅" in system["content"] and "绍兴" in system["content"]
    assert "绍兴".encode() in dataset.path.read_bytes()


def test_name_is_the_contents_hash(tmp_path: Path) -> None:
    dataset = build(tmp_path, PAIRS)
    assert hashlib.sha256(dataset.path.read_bytes()).hexdigest() == dataset.sha256
    assert dataset.path.name == f"{dataset.sha256}.jsonl"
    dataset.check()


def test_same_answers_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = build(tmp_path / "a", PAIRS), build(tmp_path / "b", PAIRS)
    assert first.sha256 == second.sha256
    assert first.manifest_path.read_bytes() == second.manifest_path.read_bytes()


def test_newer_answers_are_another_file_and_the_older_one_stays(tmp_path: Path) -> None:
    first = build(tmp_path, PAIRS)
    second = build(tmp_path, [*PAIRS, ("您爱吃什么？", "霉干菜烧肉，我最爱吃。")])
    assert second.examples == first.examples + 1
    first.check()
    second.check()


def test_manifest_accounts_for_every_answer(tmp_path: Path) -> None:
    dataset = build(tmp_path, PAIRS)
    manifest = json.loads(dataset.manifest_path.read_bytes())
    assert manifest["elder_id"] == "LXM"
    assert manifest["dataset_sha256"] == dataset.sha256
    assert (manifest["examples"], manifest["read"]) == (2, 4)
    assert manifest["skipped"] == dataset.skipped == {"duplicate": 1, "empty_answer": 1}
    assert [a["id"] for a in manifest["answers"]] == ["a0", "a1"]
    assert len({a["sha256"] for a in manifest["answers"]}) == 2


def test_no_answer_stored_is_an_unknown_elder(tmp_path: Path) -> None:
    with pytest.raises(UnknownElder):
        build(tmp_path, [])
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_no_usable_answer_is_no_answers(tmp_path: Path) -> None:
    with pytest.raises(NoAnswers):
        build(tmp_path, [("您几岁上学？", ""), ("", "在绍兴。")])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("elder_id", ["../x", "", "LXM\n", "a/b", "$ne"])
def test_invalid_id_reaches_no_path(tmp_path: Path, elder_id: str) -> None:
    with builder(ListedAnswers({elder_id: PAIRS}), tmp_path) as opened, pytest.raises(UnknownElder):
        opened.build_jsonl(elder_id, "x")
    assert list(tmp_path.iterdir()) == []


class BreakingOff:
    """A source that fails in the middle."""

    def __init__(self, after: int) -> None:
        self._after = after

    def answers(self, elder_id: str) -> Iterator[Answer]:
        for i in range(self._after):
            yield Answer(id=str(i), question="Where?", answer=f"In village number {i}.")
        raise StoreUnavailable

    def elder_name(self, elder_id: str) -> str | None:
        return None


@pytest.mark.parametrize("after", [0, 3, 40])
def test_build_that_breaks_off_leaves_nothing(tmp_path: Path, after: int) -> None:
    with builder(BreakingOff(after), tmp_path) as opened, pytest.raises(StoreUnavailable):
        opened.build_jsonl("LXM", "x")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_changed_file_is_noticed_and_set_aside(tmp_path: Path) -> None:
    dataset = build(tmp_path, PAIRS)
    dataset.path.write_bytes(dataset.path.read_bytes() + b" ")
    with pytest.raises(ArtefactCorrupt):
        dataset.check()
    assert not dataset.path.exists()
    build(tmp_path, PAIRS).check()


@pytest.mark.parametrize("name", ["{name}", "{memories}", "a{0}b", "{", "}{", "%s", "\\1"])
def test_brace_in_a_name_is_only_text(tmp_path: Path, name: str) -> None:
    dataset = build(tmp_path, PAIRS, name)
    assert name in dataset.system_prompt
    assert "绍兴" in dataset.system_prompt


@pytest.mark.parametrize("brace", ["{name}", "{memories}"])
def test_brace_in_a_memory_is_only_text(tmp_path: Path, brace: str) -> None:
    dataset = build(tmp_path, [("What?", f"My father wrote {brace} on the door.")], "Ada")
    assert f"wrote {brace} on the door" in dataset.system_prompt


def test_prompt_speaks_the_elders_language(tmp_path: Path) -> None:
    english = build(tmp_path / "en", [("Where?", "In Stromness, by the harbour.")], "Ada")
    assert english.system_prompt.startswith("You are Ada.")
    assert build(tmp_path / "zh", PAIRS).system_prompt.startswith("你是李秀梅。")


def test_long_answers_become_parts_that_fit_beside_the_prompt(tmp_path: Path) -> None:
    story = "".join(f"第{i}年我们修了一座桥。" for i in range(200))
    dataset = build(tmp_path, [("修了什么？", story)], length=256)
    assert dataset.examples > 1
    assert dataset.skipped == {"split_too_long": 1}
    assert "".join(line["messages"][2]["content"] for line in lines(dataset)) == story
