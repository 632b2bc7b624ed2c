"""When a fault strikes: the plan of a run, and what counts the passings of its point."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

from schemas.base import Frozen
from tests.chaos.faults import Fault


class Plan(Frozen):
    """A fault, when it strikes, and the folder of its fuses."""

    fault: Fault
    nth: int
    fuses: Path


class Injector:
    """Counts the passings of its point and strikes."""

    def __init__(self, path: Path) -> None:
        """`path` has the plan; another one may be written there at any time."""
        self._path = path
        self._written = 0
        self._passed = 0
        self._plan = self._read()

    def strikes(self, point: str) -> bool:
        """Say whether the fault is due at this passing, and burn a fuse if it is."""
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
        """Pass a point; a signal may be all that is heard of this process."""
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
        """Return what passes the point, whatever the method it is laid around is called with."""
        return lambda *a, **k: self.passed(point)
