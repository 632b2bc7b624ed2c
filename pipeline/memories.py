"""Which of an elder's own answers a question is about: BM25 over what she was asked and said.

The family asks in other words than the interviewer did. The answer found is put beside the
question as the interviewer's wording of it, which the adapter knows (training shows both forms),
and is told to the family as the reply's source. Where nothing is alike enough, nothing is added.

Source of the ranking: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework".
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nlargest
from operator import itemgetter

from pipeline.cleaning import CleanAnswer, language_of
from pipeline.rewording import GRAMMAR_WORDS
from schemas.base import Frozen

_K1 = 1.2
_B = 0.75
# English words are cut here: a cheap stem that makes "building" and "builder" one.
_STEM = 5
_WORD = re.compile(r"[a-z0-9']+")


class Memory(Frozen):
    """An answer found; `score` is BM25's, `margin` how far it is ahead of the next, 0 to 1."""

    answer_id: str
    question: str
    score: float
    margin: float


class Memories:
    """An index over one elder's answers; small enough to be built when it is first asked."""

    def __init__(self, answers: Iterable[CleanAnswer]) -> None:
        self._answers = [a for a in answers if a.part == 0]
        counts = [Counter(features(f"{a.question} {a.answer}")) for a in self._answers]
        self._lengths = [sum(count.values()) for count in counts]
        self._mean = sum(self._lengths) / max(1, len(counts))
        self._holders: dict[str, list[tuple[int, int]]] = {}
        for index, count in enumerate(counts):
            for feature, times in count.items():
                self._holders.setdefault(feature, []).append((index, times))

    def find(self, question: str) -> Memory | None:
        """Return the answer that the question is most like, or None where none shares a word."""
        scores: dict[int, float] = {}
        for feature in set(features(question)):
            for index, times in self._holders.get(feature, ()):
                scores[index] = scores.get(index, 0.0) + self._weight(feature, index, times)
        best = nlargest(2, scores.items(), key=itemgetter(1))
        if not best:
            return None
        index, score = best[0]
        behind = best[1][1] if len(best) > 1 else 0.0
        answer = self._answers[index]
        return Memory(
            answer_id=answer.answer_id,
            question=answer.question,
            score=round(score, 4),
            margin=round(1 - behind / score, 4),
        )

    def _weight(self, feature: str, index: int, times: int) -> float:
        holders = len(self._holders[feature])
        rarity = math.log(1 + (len(self._answers) - holders + 0.5) / (holders + 0.5))
        length = 1 - _B + _B * self._lengths[index] / self._mean
        return rarity * times * (_K1 + 1) / (times + _K1 * length)


def features(text: str) -> Sequence[str]:
    """Cut text into what is compared: characters and bigrams of Chinese, stems of English."""
    folded = text.casefold()
    if language_of(text) == "zh":
        letters = "".join(c for c in folded if c.isalnum())
        return [*letters, *(letters[i : i + 2] for i in range(len(letters) - 1))]
    return [w[:_STEM] for w in _WORD.findall(folded) if w not in GRAMMAR_WORDS]
