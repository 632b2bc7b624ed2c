"""A campaign: lanes of sessions side by side, which play the runs until it is time to stop."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from tests.chaos.faults import AGAIN, Fault
from tests.chaos.result import RunResult
from tests.chaos.session import Session
from tests.chaos.world import World

# The least distance between the faults of two runs that follow each other.
_STEP = 37


def fault_of(seed: int, faults: Sequence[Fault]) -> Fault:
    """Return the fault of a run.

    A campaign plays each fault equally often. Neighbours in the catalogue are alike, so a run is
    followed by one whose fault is far away: even a short campaign has all kinds.
    """
    step = next(n for n in itertools.count(_STEP) if math.gcd(n, len(faults)) == 1)
    return faults[seed * step % len(faults)]


@dataclass(frozen=True)
class Limits:
    """When a campaign begins no further run: at a time, or after so many runs with a fault."""

    minutes: float
    failed_runs: int


class Campaign:
    """Plays a run for each seed and keeps the results."""

    def __init__(
        self,
        *,
        seeds: Sequence[int],
        faults: Sequence[Fault],
        group_protocol: str,
        limits: Limits,
        note: Callable[[RunResult], None],
        say: Callable[[str], None],
    ) -> None:
        """`note` is called with each result as it comes, `say` with a line for the user."""
        self._seeds = seeds
        self._faults = faults
        self._group_protocol = group_protocol
        self._limits = limits
        self._note = note
        self._say = say
        self._deadline = time.monotonic() + 60 * limits.minutes
        self._broken_off = threading.Event()
        self._errors: list[BaseException] = []
        self.results: list[RunResult] = []

    @property
    def is_broken_off(self) -> bool:
        """Whether Ctrl-C or an error in a lane ended it early."""
        return self._broken_off.is_set()

    @property
    def played(self) -> int:
        """How many runs were played; a second look at a session is none."""
        return sum(result.fault != AGAIN.name for result in self.results)

    def play(self, world: World, lanes: int) -> None:
        """Play all runs in so many lanes; after Ctrl-C the runs under way end first.

        An error ends its lane, and no lane begins a further run; `raise_errors` raises it.
        """
        with ThreadPoolExecutor(lanes) as pool:
            playing = [
                pool.submit(self._play_lane, world, f"s{lane}", self._seeds[lane::lanes])
                for lane in range(lanes)
            ]
            try:
                wait(playing)
            except KeyboardInterrupt:
                self._broken_off.set()
                self._say("Broken off: the runs under way are played to their end")
        self._errors = [error for lane in playing if (error := lane.exception()) is not None]

    def raise_errors(self) -> None:
        """Raise what ended a lane, if anything did."""
        for error in self._errors:
            raise error

    def _goes_on(self) -> bool:
        failed = sum(bool(result.verdict.faults) for result in self.results)
        is_time = time.monotonic() < self._deadline and not self.is_broken_off
        return is_time and failed < self._limits.failed_runs

    def _play_lane(self, world: World, name: str, seeds: Sequence[int]) -> None:
        try:
            self._play_sessions(world, name, list(seeds))
        except BaseException:
            self._broken_off.set()
            raise

    def _play_sessions(self, world: World, name: str, waiting: list[int]) -> None:
        """Play runs one after the other; after a failed run, with new members and topics."""
        number = 0
        while waiting and self._goes_on():
            with Session(world, f"{name}x{number}", self._group_protocol) as session:
                number += 1
                while waiting and self._goes_on():
                    seed = waiting.pop(0)
                    result = session.run(fault_of(seed, self._faults), seed)
                    self._keep(result)
                    if result.verdict.faults:
                        break
                else:
                    self._keep(session.look_again())

    def _keep(self, result: RunResult) -> None:
        self.results.append(result)
        self._note(result)
