"""What is wrong with the program itself: a fault of its own, or its configuration."""

from schemas.errors.reactions import FatalError, RejectError


class InternalError(RejectError):
    """A fault of ModelServer itself; its log has the place. Replay the record once it is mended."""

    code = "internal_error"


class ConfigurationError(FatalError):
    """A setting is wrong; correct it and start again."""

    code = "configuration_error"
