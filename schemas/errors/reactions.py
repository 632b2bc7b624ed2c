"""The root of the error tree and its four reactions: retry, reject, fatal, interrupted."""

from typing import ClassVar


class ModelServerError(Exception):
    """Something went wrong in ModelServer."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None) -> None:
        self.message = message or " ".join((self.__doc__ or self.code).split())
        super().__init__(self.message)


class RetryError(ModelServerError):
    """A dependency is down; the work waits for it."""

    code = "dependency_unavailable"


class RejectError(ModelServerError):
    """The record cannot be used as it is; correct it and send it again."""

    code = "rejected"


class FatalError(ModelServerError):
    """The program cannot run like this."""

    code = "fatal"


class Interrupted(ModelServerError):
    """The work was stopped from outside."""

    code = "interrupted"
