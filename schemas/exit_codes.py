"""The exit codes of `modelserver`, which scripts and supervisors rely on.

69 and 78 are EX_UNAVAILABLE and EX_CONFIG of BSD's sysexits.h.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """An exit code with its meaning."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        """Keep the meaning beside the number."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "done"
    FAILED = 1, "the work failed"
    USAGE = 2, "wrong usage"
    UNAVAILABLE = 69, "a server cannot be reached"
    CONFIGURATION = 78, "the configuration is wrong"
    INTERRUPTED = 130, "ended by Ctrl-C, where there was nothing to finish"
