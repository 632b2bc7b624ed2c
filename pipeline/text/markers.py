"""Markers of chat formats that people write in their messages are replaced by plain text.

A host parses special tokens anywhere in a prompt. A message with `<end_of_turn>` could therefore
end its own turn and go on in the elder's name. The chat image has no tokenizer that could mark it
as text, so the text itself is changed, in training and in chat alike. The data set on the disk
keeps what was written.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

_HARMLESS = {"<": "＜", "[": "［"}
# Markers of one word are listed, since `<b>` and `<table>` are HTML and must stay.
_WORDS = "bos|eos|pad|unk|mask|s|think|reponame|filename|2mass|unused[0-9]+"
# Mistral's markers. Other words in square brackets are text.
_BRACKETED = "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS"
# Matches the first character and looks ahead at the rest, so that overlapping and nested markers
# are all found. No branch matches a replaced character: a second pass changes nothing.
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
    """Replace the first character of each marker by its full-width form; keep all other text.

    The result has the same length, and applying the function again changes nothing.
    """
    return _MARKER.sub(lambda match: _HARMLESS[match[0]], text)


PlainText = Annotated[str, AfterValidator(defuse_markers)]
"""A model field's text, with its markers replaced when it is validated."""
