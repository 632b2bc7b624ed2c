"""Which of an elder's own answers a question is about: BM25 over what she was asked and said.

The family asks in other words than the interviewer did. The answer found is put beside the
question as the interviewer's wording of it, which the adapter knows (training shows both forms),
and is told to the family as the reply's source. Where nothing is alike enough, nothing is added.

Source of the ranking: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework".
"""

import math
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest
from operator import itemgetter

from pipeline.text.cleaning import CleanAnswer, language_of
from pipeline.text.rewording import GRAMMAR_WORDS
from schemas.base import Frozen

_K1 = 1.2
_B = 0.75
# English words are cut here: a cheap stem that makes "building" and "builder" one.
_STEM = 5
# 32 MiB: ten elders of a thousand answers each, or a hundred of a hundred.
_MOST_POSTINGS = 2_000_000
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
        self._answers: list[tuple[str, str]] = []
        self._lengths = array("I")
        postings: list[tuple[int, int, int]] = []
        for answer in (a for a in answers if a.part == 0):
            count = Counter(features(f"{answer.question} {answer.answer}"))
            postings += [(hash(f), len(self._answers), times) for f, times in count.items()]
            self._answers.append((answer.answer_id, answer.question))
            self._lengths.append(count.total())
        self._mean = sum(self._lengths) / max(1, len(self._lengths))
        # In the order of the features' hashes, as numbers: 16 bytes a posting, where a dict of
        # lists takes 120. An elder may have told thousands of answers.
        postings.sort(key=itemgetter(0))
        self._features = array("q", [feature for feature, _, _ in postings])
        self._holders = array("I", [index for _, index, _ in postings])
        self._times = array("I", [times for _, _, times in postings])

    def __len__(self) -> int:
        """How many postings it holds: different features, counted for each answer."""
        return len(self._features)

    def find(self, question: str) -> Memory | None:
        """Return the answer that the question is most like, or None where none shares a word."""
        scores: dict[int, float] = {}
        for feature in set(features(question)):
            for index, weight in self._weights(hash(feature)):
                scores[index] = scores.get(index, 0.0) + weight
        best = nlargest(2, scores.items(), key=itemgetter(1))
        if not best:
            return None
        index, score = best[0]
        behind = best[1][1] if len(best) > 1 else 0.0
        answer_id, asked = self._answers[index]
        return Memory(
            answer_id=answer_id,
            question=asked,
            score=round(score, 4),
            margin=round(1 - behind / score, 4),
        )

    def _weights(self, feature: int) -> Iterator[tuple[int, float]]:
        """Yield each answer that has the feature, and what this adds to its score."""
        first = bisect_left(self._features, feature)
        last = bisect_right(self._features, feature, first)
        holders = last - first
        rarity = math.log(1 + (len(self._answers) - holders + 0.5) / (holders + 0.5))
        for posting in range(first, last):
            index, times = self._holders[posting], self._times[posting]
            length = 1 - _B + _B * self._lengths[index] / self._mean
            yield index, rarity * times * (_K1 + 1) / (times + _K1 * length)


class MemoryCache:
    """The indices of those who were asked last, as many as hold so many postings together."""

    def __init__(self, most: int = _MOST_POSTINGS) -> None:
        self._most = most
        self._held = 0
        self._memories: OrderedDict[tuple[str, str], Memories] = OrderedDict()

    def get(self, elder_id: str, dataset_sha256: str) -> Memories | None:
        """Return the index made for an elder's data set, if it is still here."""
        key = (elder_id, dataset_sha256)
        if key not in self._memories:
            return None
        self._memories.move_to_end(key)
        return self._memories[key]

    def put(self, elder_id: str, dataset_sha256: str, memories: Memories) -> None:
        """Keep an index; those who were not asked for longest make room. One is always kept."""
        key = (elder_id, dataset_sha256)
        replaced = self._memories.pop(key, None)
        self._memories[key] = memories
        self._held += len(memories) - len(replaced or ())
        while self._held > self._most and len(self._memories) > 1:
            _, oldest = self._memories.popitem(last=False)
            self._held -= len(oldest)


def features(text: str) -> Sequence[str]:
    """Cut text into what is compared: characters and bigrams of Chinese, stems of English."""
    folded = text.casefold()
    if language_of(text) == "zh":
        letters = "".join(c for c in folded if c.isalnum())
        return [*letters, *(letters[i : i + 2] for i in range(len(letters) - 1))]
    return [w[:_STEM] for w in _WORD.findall(folded) if w not in GRAMMAR_WORDS]
