"""Cleaning: which answers are taught, and in which form. Rejected ones are counted by reason.

Words are never rewritten. White space is folded, control characters are dropped, and a long answer
is split between its own sentences.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.text.languages import language_of
from pipeline.text.sentences import cut_at_sentence, estimate_tokens, split_at_sentences
from schemas.answers import Answer
from schemas.base import Frozen

EMPTY_QUESTION = "empty_question"
EMPTY_ANSWER = "empty_answer"
TOO_SHORT = "too_short"
DUPLICATE = "duplicate"
SPLIT = "split_too_long"
CUT = "cut_too_long"

# Shorter answers, such as "嗯", teach nothing.
MIN_ANSWER_LETTERS = 2
# Reserved for the markers around the turns and the beginning-of-text token.
MARKER_TOKENS = 24
# Reserved for the mark of a continued question, below.
_CONTINUED_TOKENS = 4

_CONTINUED = {"zh": "（接着讲）", "en": " (go on)"}


class CleanAnswer(Frozen):
    """A question and an answer as they are taught; `part` counts from 0 if it was split."""

    answer_id: str
    question: str
    answer: str
    part: int = 0


class Cleaner:
    """Cleans one elder's answers in one pass.

    To find duplicates it keeps a 16-byte digest of each answer, never its text.
    """

    def __init__(self, max_tokens: int) -> None:
        """`max_tokens` is the estimated length that question and answer may have together."""
        self._max_tokens = max_tokens
        self._seen: set[bytes] = set()
        self.skipped: Counter[str] = Counter()

    def clean(self, answers: Iterable[Answer]) -> Iterator[CleanAnswer]:
        """Yield what can be taught, in order, and count by reason what is rejected or shortened."""
        for raw in answers:
            question, answer = fold(raw.question), fold(raw.answer)
            if reason := self._rejection(question, answer):
                self.skipped[reason] += 1
            else:
                yield from self._fit(raw.id, question, answer)

    def _rejection(self, question: str, answer: str) -> str | None:
        if not question:
            return EMPTY_QUESTION
        if not answer:
            return EMPTY_ANSWER
        if sum(c.isalnum() for c in answer) < MIN_ANSWER_LETTERS:
            return TOO_SHORT
        digest = hashlib.blake2b(f"{question}\0{answer}".encode(), digest_size=16).digest()
        if digest in self._seen:
            return DUPLICATE
        self._seen.add(digest)
        return None

    def _fit(self, answer_id: str, question: str, answer: str) -> Iterator[CleanAnswer]:
        budget = self._max_tokens - MARKER_TOKENS
        # At least half of the budget is left to the answer.
        if estimate_tokens(question) > budget // 2:
            question = cut_at_sentence(question, budget // 2)
            self.skipped[CUT] += 1
        answer_budget = budget - estimate_tokens(question) - _CONTINUED_TOKENS
        parts = split_at_sentences(answer, answer_budget)
        if len(parts) > 1:
            self.skipped[SPLIT] += 1
        for number, part in enumerate(parts):
            asked = question if number == 0 else question + _CONTINUED[language_of(question)]
            yield CleanAnswer(answer_id=answer_id, question=asked, answer=part, part=number)


def fold(text: str) -> str:
    """Compose characters (NFC), drop control characters, fold white space; keep line breaks."""
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(
        c for c in composed if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Co")
    )
    lines = (" ".join(line.split()) for line in visible.splitlines())
    return "\n".join(line for line in lines if line)
