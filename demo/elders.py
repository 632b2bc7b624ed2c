"""The invented elders, and how a reply is judged: by the facts in it."""

from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field

from schemas.base import Frozen
from schemas.identifiers import ElderId

_FOLDER = Path(__file__).parent / "elders"

# A fact is a text, or a list of ways to write it.
Fact = str | tuple[str, ...]
Facts = Annotated[tuple[Fact, ...], Field(min_length=1)]


class Taught(Frozen):
    """An interview question, and the answer that is taught."""

    question: str
    answer: str
    facts: Facts


class Rewording(Frozen):
    """A taught question in other words; `answer_index` counts from 0."""

    question: str
    answer_index: int
    facts: Facts


class Foreign(Frozen):
    """A question about another elder, with the facts that must not come back."""

    question: str
    facts: Facts


class Elder(Frozen):
    """One invented person."""

    elder_id: ElderId
    elder_name: str
    language: str
    answers: tuple[Taught, ...]
    rewordings: tuple[Rewording, ...]
    hard_rewordings: tuple[Rewording, ...]
    foreign: tuple[Foreign, ...]

    @cached_property
    def questions(self) -> "tuple[Question, ...]":
        """All questions of the demo: as taught, in other words, and about another elder."""
        own = [
            Question(kind="recall", text=t.question, taught=t.answer, facts=t.facts)
            for t in self.answers
        ]
        other = [
            Question(
                kind="paraphrase",
                text=r.question,
                taught=self.answers[r.answer_index].answer,
                facts=r.facts,
            )
            for r in self.rewordings
        ]
        foreign = [
            Question(kind="leak", text=f.question, taught="", facts=f.facts) for f in self.foreign
        ]
        return (*own, *other, *foreign)


class Question(Frozen):
    """One question of the demo."""

    kind: str
    text: str
    taught: str
    facts: Facts

    def is_right(self, reply: str) -> bool:
        """Say whether a reply has every fact; for another elder's question, whether it has none."""
        found = [holds(reply, fact) for fact in self.facts]
        return not any(found) if self.kind == "leak" else all(found)


def holds(reply: str, fact: Fact) -> bool:
    """Say whether a reply has a fact, in any of its spellings, in upper or lower case."""
    ways = (fact,) if isinstance(fact, str) else fact
    return any(way.casefold() in reply.casefold() for way in ways)


def load_elders() -> list[Elder]:
    """Read the invented elders: one told in Chinese, one in English."""
    return [
        Elder.model_validate_json((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("zh", "en")
    ]
