"""The language of a text, Chinese or English, judged by its letters."""

import re

from config.training import Language

CJK = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
"""One Chinese, Japanese or Korean character, or its punctuation or a full-width form."""


def language_of(text: str) -> Language:
    """Return `zh` if at least a fifth of the letters are CJK, else `en`."""
    letters = sum(c.isalpha() for c in text)
    return "zh" if letters and len(CJK.findall(text)) * 5 >= letters else "en"
