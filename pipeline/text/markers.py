"""Markers inside what people write are text.

Hosts tokenize a rendered prompt with its special tokens parsed, so a message that holds
`<end_of_turn>` would end its own turn and speak for the elder. The chat image has no tokenizer;
the text itself is made harmless instead, the same way in training and in chat. The data set on
the disk keeps what was written.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

_HARMLESS = {"<": "＜", "[": "［"}
# Single words are listed: `<b>` and `<table>` are HTML, and stay.
_WORDS = "bos|eos|pad|unk|mask|s|think|reponame|filename|2mass|unused[0-9]+"
# Mistral's tokens. Other capitals in brackets are text.
_BRACKETED = "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS"
# Looks ahead and takes one character, so that markers may overlap or nest. No branch can match
# across a character that is put in: what was made harmless once is not changed again.
_MARKER = re.compile(
    r"<(?="
    # <|im_end|>, <|eot_id|>, and Gemma 4's halves: <|turn>, <turn|>
    r"\|[^\s<>|＜]+\|?>|[^\s<>|＜]+\|>"
    # <start_of_turn>, <file_sep>, <tool_call>: words joined by underscores
    r"|/?[a-z0-9]+(?:_[a-z0-9]+)+>"
    rf"|/?(?:{_WORDS})>"
    r")"
    rf"|\[(?=/?(?:{_BRACKETED})\])"
)


def defuse_markers(text: str) -> str:
    """Replace the first character of each marker by its full-width form; keep all other text."""
    return _MARKER.sub(lambda match: _HARMLESS[match[0]], text)


PlainText = Annotated[str, AfterValidator(defuse_markers)]
"""Text in a model's field that can hold no marker."""
