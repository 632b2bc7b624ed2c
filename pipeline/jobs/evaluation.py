"""Evaluation: how many taught answers a version returns, asked through its host.

A reply is right when it contains at least half of the taught answer's pieces: words in English
answers, character bigrams in others. The measure is recall, so a longer reply costs nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.hosting.port import ModelHost
from pipeline.text.languages import language_of
from pipeline.text.markers import defuse_markers
from schemas.base import Frozen
from schemas.errors import EvaluationFailed
from schemas.events import Evaluation

# A reply with this fraction of the pieces is right: it has the names, places and numbers, though a
# phrase may differ.
RIGHT_FROM = 0.5
_WORD = re.compile(r"\w+")
_REPLY_TOKENS = 160


class TaughtExample(Frozen):
    """A question and the answer that was taught to it."""

    question: str
    answer: str


def sample_examples(dataset: Path, total: int, wanted: int) -> list[TaughtExample]:
    """Return up to `wanted` examples, spread evenly over a data set of `total` lines."""
    count = min(wanted, total)
    chosen = {i * total // count for i in range(count)} if count else set()
    return [example for i, example in enumerate(_examples(dataset)) if i in chosen]


def evaluate(
    host: ModelHost,
    tag: str,
    examples: Sequence[TaughtExample],
    threshold: float,
    on_asked: Callable[[float], None],
    *,
    num_ctx: int,
) -> Evaluation:
    """Ask each question and count the right replies.

    `threshold` is the recall that is required, from 0 to 1; it is recorded, not applied (see
    `require_enough`). `on_asked` gets the fraction done after each reply. `num_ctx` is the context
    window in tokens: if it is the one that chat uses, the host need not load the model again.
    Raises whatever the host raises.
    """
    right = 0
    options = {"temperature": 0, "num_predict": _REPLY_TOKENS, "num_ctx": num_ctx}
    for number, example in enumerate(examples, start=1):
        question = {"role": "user", "content": defuse_markers(example.question)}
        reply = host.ask(tag, [question], options)
        right += is_right(reply.text, example.answer)
        on_asked(number / len(examples))
    recall = right / len(examples) if examples else 1.0
    return Evaluation(asked=len(examples), right=right, recall=recall, threshold=threshold)


def require_enough(evaluation: Evaluation) -> None:
    """Raise EvaluationFailed if the recall is below the evaluation's threshold."""
    if evaluation.recall < evaluation.threshold:
        raise EvaluationFailed(
            f"{evaluation.right} of {evaluation.asked} taught answers came back, fewer than "
            f"{evaluation.threshold:.0%}; the previous version goes on serving"
        )


def is_right(reply: str, taught: str) -> bool:
    """Say whether a reply contains enough (`RIGHT_FROM`) of the taught answer's pieces."""
    wanted, found = Counter(_pieces(taught)), Counter(_pieces(reply))
    return sum((wanted & found).values()) >= RIGHT_FROM * sum(wanted.values())


def _pieces(text: str) -> list[str]:
    words = _WORD.findall(text.casefold())
    if language_of(text) == "en":
        return words
    characters = "".join(words)
    return [characters[i : i + 2] for i in range(len(characters) - 1)]


def _examples(dataset: Path) -> Iterator[TaughtExample]:
    with dataset.open(encoding="utf-8") as lines:
        for line in lines:
            messages = json.loads(line)["messages"]
            yield TaughtExample(question=messages[1]["content"], answer=messages[2]["content"])
