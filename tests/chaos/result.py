"""What became of a run."""

from schemas.base import Frozen
from tests.chaos.checker import Verdict


class RunResult(Frozen):
    """A run's fault, how often it struck, and the verdict.

    `restarts` counts the members' processes that were started again; `last_words` are the ends of
    their logs, kept only where something is wrong.
    """

    fault: str
    seed: int
    struck: int
    restarts: int
    seconds: float
    verdict: Verdict
    last_words: tuple[str, ...] = ()
