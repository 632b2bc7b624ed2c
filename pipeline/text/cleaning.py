"""What may be learned: answers cleaned, told apart, split to fit, and each refusal counted.

Nothing is rewritten: white space is folded and control characters are dropped, and a long answer
is split at its own sentences. What is left out is counted under a reason.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from config.training import Language
from schemas.answers import Answer
from schemas.base import Frozen

EMPTY_QUESTION = "empty_question"
EMPTY_ANSWER = "empty_answer"
TOO_SHORT = "too_short"
DUPLICATE = "duplicate"
SPLIT = "split_too_long"
CUT = "cut_too_long"

# "嗯", "ok": nothing to learn from.
MIN_ANSWER_LETTERS = 2
# Room for the system prompt's ending, the turn markers and the beginning-of-text token.
MARKER_TOKENS = 24

_CJK = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_SENTENCE = re.compile(r"[^。！？!?.…;；\n]*(?:[。！？!?.…;；\n]+[\"'”’」』)）]*\s*|$)")
_CONTINUED = {"zh": "（接着讲）", "en": " (go on)"}


class CleanAnswer(Frozen):
    """A question and an answer as they are taught; `part` counts from 0 where it was split."""

    answer_id: str
    question: str
    answer: str
    part: int = 0


class Cleaner:
    """Cleans one elder's answers in one pass; holds a 16-byte digest of each, never the text."""

    def __init__(self, max_tokens: int) -> None:
        """`max_tokens` is what question and answer may have together."""
        self._max_tokens = max_tokens
        self._seen: set[bytes] = set()
        self.skipped: Counter[str] = Counter()

    def clean(self, answers: Iterable[Answer]) -> Iterator[CleanAnswer]:
        """Yield what can be taught, in order, and count the rest in `skipped`."""
        for raw in answers:
            question, answer = fold(raw.question), fold(raw.answer)
            if reason := self._refusal(question, answer):
                self.skipped[reason] += 1
            else:
                yield from self._fit(raw.id, question, answer)

    def _refusal(self, question: str, answer: str) -> str | None:
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
        room = self._max_tokens - MARKER_TOKENS
        # A question that fills the window leaves no room to answer it.
        if estimate_tokens(question) > room // 2:
            question = cut_at_sentence(question, room // 2)
            self.skipped[CUT] += 1
        parts = split_at_sentences(answer, room - estimate_tokens(question) - 4)
        if len(parts) > 1:
            self.skipped[SPLIT] += 1
        for number, part in enumerate(parts):
            asked = question if number == 0 else question + _CONTINUED[language_of(question)]
            yield CleanAnswer(answer_id=answer_id, question=asked, answer=part, part=number)


def fold(text: str) -> str:
    """Compose characters (NFC), drop control ones, fold white space; line breaks stay."""
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(
        c for c in composed if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Co")
    )
    lines = (" ".join(line.split()) for line in visible.splitlines())
    return "\n".join(line for line in lines if line)


def language_of(text: str) -> Language:
    """Say `zh` where a fifth or more of the letters are CJK, else `en`."""
    letters = sum(c.isalpha() for c in text)
    return "zh" if letters and len(_CJK.findall(text)) * 5 >= letters else "en"


def estimate_tokens(text: str) -> int:
    """Estimate tokens from above without a tokenizer.

    Two a CJK character (the SmolLM2 tokenizer needs 1.9, Gemma's and Qwen's under one) and one
    for each two other characters (English has about four to a token).
    """
    wide = len(_CJK.findall(text))
    return 2 * wide + (len(text) - wide + 1) // 2


def split_at_sentences(text: str, room: int) -> list[str]:
    """Split text into parts of at most `room` estimated tokens, at sentences where it has any."""
    parts: list[str] = []
    current = ""
    for sentence in _sentences(text, room):
        if current and estimate_tokens(current + sentence) > room:
            parts.append(current.strip())
            current = ""
        current += sentence
    return [*parts, current.strip()] if current.strip() else parts


def cut_at_sentence(text: str, room: int) -> str:
    """Keep the leading sentences that fit into `room` estimated tokens."""
    return split_at_sentences(text, room)[0]


def _sentences(text: str, room: int) -> Iterator[str]:
    for sentence in _SENTENCE.findall(text):
        # A sentence that alone is too long is taken apart: `room` CJK characters always fit.
        step = max(1, room // 2)
        if estimate_tokens(sentence) <= room:
            yield sentence
        else:
            yield from (sentence[i : i + step] for i in range(0, len(sentence), step))
