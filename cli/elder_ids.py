"""Elder ids from the command line."""

from schemas.errors import InvalidEvent
from schemas.identifiers import is_elder_id


def require_elder_id(text: str) -> str:
    """Return a valid elder id; raises InvalidEvent before any server is reached."""
    if not is_elder_id(text):
        raise InvalidEvent(
            "ELDER_ID: letters, digits, - and _, at most 64, a letter or digit first"
        )
    return text
