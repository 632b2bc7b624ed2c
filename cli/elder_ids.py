"""Elder ids from the command line."""

from schemas.errors import InvalidEvent
from schemas.identifiers import is_elder_id


def require_elder_id(text: str) -> str:
    """Return the id if it is valid; raises InvalidEvent otherwise."""
    if not is_elder_id(text):
        raise InvalidEvent(
            "ELDER_ID: letters, digits, - and _, at most 64, a letter or digit first"
        )
    return text
