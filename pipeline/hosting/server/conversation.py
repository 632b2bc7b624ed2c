"""A conversation as templates render it and manifests store it."""

from schemas.base import Frozen


class Turn(Frozen):
    """One message: `role` is system, user or assistant."""

    role: str
    content: str
