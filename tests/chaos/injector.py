"""When a fault strikes: the plan of a run, and the injector that counts passings of its point."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

from schemas.base import Frozen
from tests.chaos.faults import Fault


class Plan(Frozen):
    """A fault, the passing at which it strikes, and the folder where each strike leaves a file."""

    fault: Fault
    nth: int
    fuses: Path


class Injector:
    """Counts how often the plan's point is passed, and strikes when its time has come."""

    def __init__(self, path: Path) -> None:
        """`path` is the file of the plan; a new plan may be written there at any time."""
        self._path = path
        self._written = 0
        self._passed = 0
        self._plan = self._read()

    def strikes(self, point: str) -> bool:
        """Say whether the fault strikes at this passing; if so, burn a fuse."""
        if self._path.stat().st_mtime_ns != self._written:
            self._plan, self._passed = self._read(), 0
        if point != self._plan.fault.point:
            return False
        self._passed += 1
        return self._passed >= self._plan.nth and self._burn()

    def _read(self) -> Plan:
        self._written = self._path.stat().st_mtime_ns
        return Plan.model_validate_json(self._path.read_text())

    def _burn(self) -> bool:
        for number in range(self._plan.fault.times):
            try:
                (self._plan.fuses / f"{number}").touch(exist_ok=False)
                return True
            except FileExistsError:
                continue
        return False

    def passed(self, point: str) -> None:
        """Pass a point; if the fault strikes, a signal may end this process here."""
        if not self.strikes(point):
            return
        action = self._plan.fault.action
        if action == "kill_child":
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
            return
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
        os.kill(os.getpid(), number[action or ""])

    def at(self, point: str) -> Callable[..., None]:
        """Return a function that takes any arguments and passes the point."""
        return lambda *a, **k: self.passed(point)
