"""The answers of an interview, as upstream stores them."""

from datetime import datetime

from schemas.base import Frozen


class Answer(Frozen):
    """One answer as upstream stored it; a question or answer that is not text reads as empty."""

    id: str
    question: str
    answer: str
    created_at: datetime | None = None
