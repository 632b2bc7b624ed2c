"""The conversation's history: the earlier turns that are sent with a question."""

from collections.abc import Sequence

from schemas.events import ChatTurn


def newest_turns(history: Sequence[ChatTurn], budget: int) -> list[ChatTurn]:
    """Return the newest turns that fit `budget` characters; the first one is the family's."""
    kept: list[ChatTurn] = []
    for turn in reversed(history):
        budget -= len(turn.content)
        if budget < 0:
            break
        kept.append(turn)
    kept.reverse()
    while kept and kept[0].role != "user":
        kept.pop(0)
    return kept
