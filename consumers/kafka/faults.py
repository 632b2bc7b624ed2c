"""Describes unexpected errors for the log, which must never quote an elder."""


def describe_fault(error: BaseException) -> str:
    """Return the error's type, file and line; never its text, which may quote an elder."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    return f"{type(error).__name__} at {where}"
