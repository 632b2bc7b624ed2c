"""Other wordings of a question for training, made from the question and its answer.

An elder was asked each question once, in one wording; the family asks in others. Only the question
changes: the answer is what the elder said and is never touched. Nothing is invented. Words are
dropped, reordered or replaced by synonyms and get an opening and a closing phrase; or the question
names a piece of the answer, like one from somebody who half remembers it.

Source of dropping, reordering and synonyms: Wei and Zou 2019, "EDA".
"""

import random
import re

from pipeline.text.languages import language_of
from pipeline.text.vocabulary import GRAMMAR_WORDS, SYNONYMS, ZH_GRAMMAR, ZH_WITH_SYNONYMS

_EN_WORD = re.compile(r"[A-Za-z0-9']+")
_ZH_OPENERS = ("奶奶，", "爷爷，", "跟我讲讲", "给我说说", "想听听", "还记得", "您说说", "")
_EN_OPENERS = (
    "Grandpa, ",
    "Grandma, ",
    "Tell me about ",
    "I'd like to hear about ",
    "Remember ",
    "",
)
_ZH_CLOSERS = ("的事", "呀？", "吗？", "是怎么回事？", "")
_EN_CLOSERS = ("?", ", how was that?", ", please.", "")


def reword(question: str, answer: str, count: int, seed: int) -> list[str]:
    """Return `count` other wordings of a question; the same seed gives the same ones.

    Every second one has the taught wording beside it, like a chat question that was recognised.
    """
    chance = random.Random(f"{seed}/{question}")
    make = _reword_zh if language_of(question) == "zh" else _reword_en
    worded = [make(question, answer, chance, number) for number in range(count)]
    return [with_hint(w, question) if n % 2 else w for n, w in enumerate(worded)]


def with_hint(question: str, taught: str) -> str:
    """Put the interviewer's wording beside a question in brackets, unless both are the same."""
    if question.strip() == taught:
        return taught
    return f"{question}（{taught}）" if language_of(taught) == "zh" else f"{question} ({taught})"


def _reword_zh(question: str, answer: str, chance: random.Random, number: int) -> str:
    if number % 5 == 2 and (piece := _piece(ZH_GRAMMAR.split(answer), chance)):
        topic = piece
    else:
        asked = ZH_WITH_SYNONYMS.sub(lambda match: _other_word(match[0], chance), question)
        topic = "".join(_keep([p for p in ZH_GRAMMAR.split(asked) if p], chance)) or question
    return chance.choice(_ZH_OPENERS) + topic + chance.choice(_ZH_CLOSERS)


def _reword_en(question: str, answer: str, chance: random.Random, number: int) -> str:
    if number % 5 == 2 and (piece := _piece(re.split(r"[,.;!?]", answer), chance)):
        topic = piece
    else:
        content = [w for w in _EN_WORD.findall(question) if w.lower() not in GRAMMAR_WORDS]
        words = [_other_word(word, chance) for word in content]
        topic = " ".join(_keep(words, chance)) or question
    return chance.choice(_EN_OPENERS) + topic + chance.choice(_EN_CLOSERS)


def _other_word(word: str, chance: random.Random) -> str:
    """Replace a word by a synonym half of the time, if it has one."""
    others = SYNONYMS.get(word.lower())
    return chance.choice(others) if others and chance.random() < 0.5 else word


def _keep(words: list[str], chance: random.Random) -> list[str]:
    """Drop words at random, but keep half of them or all; sometimes shuffle the rest."""
    kept = [w for w in words if chance.random() < 0.8]
    if len(kept) * 2 < len(words):
        kept = list(words)
    if chance.random() < 0.4:
        chance.shuffle(kept)
    return kept


def _piece(parts: list[str], chance: random.Random) -> str:
    """Choose a piece of two characters or more; return an empty string if there is none."""
    pieces = [p.strip() for p in parts if len(p.strip()) >= 2]
    return chance.choice(pieces) if pieces else ""
