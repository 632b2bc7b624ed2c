"""A member of the consumer groups: `modelserver run` in a process of its own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from embedded.process import dying_with_parent

_MOST_RESTARTS = 1000
_LAST_WORDS = 8


class Member:
    """Runs `modelserver run` in a process, and starts it again whenever it ends."""

    def __init__(self, name: str, environment: dict[str, str], log: Path, asleep_s: float) -> None:
        """`log` is a folder; a process that was stopped is woken after `asleep_s`."""
        self._name = name
        self._environment = environment
        self._log = log
        self._asleep_s = asleep_s
        self.restarts = -1
        self.killed = 0
        self._asleep_since: float | None = None
        self._wanted = True
        self._start()

    def _start(self) -> None:
        self.restarts += 1
        path = self._log / f"{self._name}-{self.restarts}.log"
        with path.open("wb") as log:
            self._process = subprocess.Popen(
                dying_with_parent((sys.executable, "-m", "tests.chaos.service", "run")),
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The id of its current process."""
        return self._process.pid

    def last_words(self) -> list[str]:
        """Return the last lines of its current log."""
        path = self._log / f"{self._name}-{self.restarts}.log"
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_WORDS:]

    def watch(self) -> None:
        """Start it again if it has ended; wake it if it was stopped for long enough."""
        if self._process.poll() is not None:
            if self._wanted and self.restarts < _MOST_RESTARTS:
                self._start()
            return
        try:
            asleep = psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return
        now = time.monotonic()
        if not asleep:
            self._asleep_since = None
        elif self._asleep_since is None:
            self._asleep_since = now
        elif now - self._asleep_since > self._asleep_s:
            os.kill(self._process.pid, signal.SIGCONT)

    def was_given(self, role: str) -> bool:
        """Say whether its current process was assigned partitions of a role, by its log."""
        path = self._log / f"{self._name}-{self.restarts}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        told = (json.loads(li) for li in lines if '"consumer.assigned"' in li and li[-1] == "}")
        return any(line["role"] == role and line["partitions"] > 0 for line in told)

    def kill(self, chance: random.Random | None = None) -> None:
        """Send SIGKILL to its process, or with `chance` to it or one of its children."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            victim = process
            if chance is not None:
                victim = chance.choice([process, *process.children(recursive=True)])
            self.killed += victim == process
            victim.kill()

    def leave(self, *, hard: bool = False) -> None:
        """End it with SIGTERM, and with SIGKILL if it has not left after a while or if `hard`."""
        self._wanted = False
        ways = ((signal.SIGTERM, 40.0), (signal.SIGKILL, 10.0))
        for number, limit_s in ways[1:] if hard else ways:
            if self._process.poll() is None:
                os.kill(self._process.pid, signal.SIGCONT)
                os.kill(self._process.pid, number)
                try:
                    self._process.wait(limit_s)
                except subprocess.TimeoutExpired:
                    continue
