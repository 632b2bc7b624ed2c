"""BM25 over one elder's answers: which of them is a question about?

The family words its questions differently from the interviewer. The caller therefore puts the
interviewer's question beside the family's, a form that the adapter knows from training, and names
the answer that was found as the reply's source. If no answer stands out, nothing is added.

Source: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond".
"""

import math
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest
from operator import itemgetter

from pipeline.text.cleaning import CleanAnswer
from pipeline.text.languages import language_of
from pipeline.text.vocabulary import GRAMMAR_WORDS
from schemas.base import Frozen

# BM25's free parameters: how soon repeating a term stops adding, and how much length matters.
_K1 = 1.2
_B = 0.75
# English words are cut to this many letters, a cheap stem: "building" and "builder" become one.
_STEM_LETTERS = 5
_WORD = re.compile(r"[a-z0-9']+")


class Match(Frozen):
    """The best answer to a question.

    `score` is BM25's; `margin` is how far it leads the next one's, as a share from 0 to 1.
    """

    answer_id: str
    question: str
    """In the interviewer's wording."""
    score: float
    margin: float


class AnswerIndex:
    """An inverted index over one elder's answers; a document is a question with its answer."""

    def __init__(self, answers: Iterable[CleanAnswer]) -> None:
        """Index the answers; of an answer that was split, only the first part."""
        self._answers: list[tuple[str, str]] = []
        self._lengths = array("I")
        postings: list[tuple[int, int, int]] = []
        for answer in (a for a in answers if a.part == 0):
            count = Counter(terms_of(f"{answer.question} {answer.answer}"))
            postings += [(hash(t), len(self._answers), times) for t, times in count.items()]
            self._answers.append((answer.answer_id, answer.question))
            self._lengths.append(count.total())
        self._mean_length = sum(self._lengths) / max(1, len(self._lengths))
        # Three arrays sorted by the terms' hashes take 16 bytes per posting, where a dict of lists
        # takes 120. An elder may have given thousands of answers.
        postings.sort(key=itemgetter(0))
        self._terms = array("q", [term for term, _, _ in postings])
        self._documents = array("I", [document for _, document, _ in postings])
        self._frequencies = array("I", [times for _, _, times in postings])

    def __len__(self) -> int:
        """Return the number of postings: pairs of a term and an answer that has it."""
        return len(self._terms)

    def find(self, question: str) -> Match | None:
        """Return the answer that scores highest, or None if none shares a term."""
        scores: dict[int, float] = {}
        for term in set(terms_of(question)):
            for document, score in self._term_scores(hash(term)):
                scores[document] = scores.get(document, 0.0) + score
        best = nlargest(2, scores.items(), key=itemgetter(1))
        if not best:
            return None
        document, score = best[0]
        next_score = best[1][1] if len(best) > 1 else 0.0
        answer_id, asked = self._answers[document]
        return Match(
            answer_id=answer_id,
            question=asked,
            score=round(score, 4),
            margin=round(1 - next_score / score, 4),
        )

    def _term_scores(self, term: int) -> Iterator[tuple[int, float]]:
        """Yield each document that has the term, and what the term adds to its score.

            idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / mean length))
            idf = ln(1 + (N - n + 0.5) / (n + 0.5))

        tf is how often the document has the term; n of all N documents have it.
        """
        first = bisect_left(self._terms, term)
        last = bisect_right(self._terms, term, first)
        holders = last - first
        idf = math.log(1 + (len(self._answers) - holders + 0.5) / (holders + 0.5))
        for posting in range(first, last):
            document, tf = self._documents[posting], self._frequencies[posting]
            length = 1 - _B + _B * self._lengths[document] / self._mean_length
            yield document, idf * tf * (_K1 + 1) / (tf + _K1 * length)


def terms_of(text: str) -> Sequence[str]:
    """Cut text into terms: characters and bigrams of Chinese, stems of English content words."""
    folded = text.casefold()
    if language_of(text) == "zh":
        letters = "".join(c for c in folded if c.isalnum())
        return [*letters, *(letters[i : i + 2] for i in range(len(letters) - 1))]
    return [w[:_STEM_LETTERS] for w in _WORD.findall(folded) if w not in GRAMMAR_WORDS]
