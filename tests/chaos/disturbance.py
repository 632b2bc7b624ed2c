"""Faults around the service: its servers go or hang, members come, go and die."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from config.settings import Settings
from tests.chaos.configuration import OLLAMA_TIMEOUT_S, SESSION_TIMEOUT_S
from tests.chaos.faults import Around, During, Fault
from tests.chaos.member import Member
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.world import World

WATCH_S = 0.05
# Longer than the job's lease, than the relay's lease (5 s) and than the group's session timeout.
ASLEEP_S = SESSION_TIMEOUT_S + 2.0
_AWAY_S = 3.0
_JOIN_LIMIT_S = 60.0
_GUEST_STAYS_S = 2.0


class Disturbance(threading.Thread):
    """Does a fault around the service in a thread; `finish` raises what kept it from being done."""

    def __init__(self, disturb: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._disturb = disturb
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it, and keep the error for `finish`."""
        try:
            self._disturb()
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Wait for the end; raise what went wrong."""
        self.join()
        if self._error is not None:
            raise self._error


class Surroundings:
    """What is around a session's service and can be disturbed: proxies, brokers and members."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        *,
        mongodb: Proxy,
        ollama: Proxy,
        members: Sequence[Member],
        make_member: Callable[[str], Member],
    ) -> None:
        """`make_member` starts a further member under a name."""
        self._world = world
        self._settings = settings
        self._members = members
        self._make_member = make_member
        self._guests = 0
        self._modes: dict[Around, tuple[Proxy, Mode]] = {
            "mongodb_gone": (mongodb, "gone"),
            "mongodb_hangs": (mongodb, "hang"),
            "ollama_gone": (ollama, "gone"),
            "ollama_hangs": (ollama, "hang"),
            "ollama_slow": (ollama, "slow"),
            "ollama_500": (ollama, "500"),
        }

    def disturb(self, fault: Fault, chance: random.Random, fuses: Path) -> None:
        """Do what a fault does around the service, a moment after the traffic began.

        A file in `fuses` says afterwards that it was done.
        """
        around = fault.around
        if around == "none":
            return
        time.sleep(chance.uniform(0.2, 3.0 if fault.during == "training" else 0.5))
        if around in self._modes:
            self._spoil(*self._modes[around], chance)
        elif around == "rebalance":
            self._come_and_go(fault.during, hard=chance.random() < 0.5)
        elif around == "killed":
            for _ in range(fault.times):
                chance.choice(self._members).kill(chance)
                time.sleep(chance.uniform(0.0, 3.0))
        elif around == "coordinator_moved":
            group = self._settings.kafka.group(chance.choice(("training", "chat")))
            self._world.bounce(self._world.coordinator(group), hard=True, away_s=_AWAY_S)
        else:
            node = chance.randint(1, 3)
            self._world.bounce(node, hard=around == "broker_hard", away_s=1.0)
        (fuses / "around").touch()

    def _spoil(self, proxy: Proxy, mode: Mode, chance: random.Random) -> None:
        proxy.set_mode(mode)
        # A server that hangs does so for longer than any client's timeout.
        shortest_s = OLLAMA_TIMEOUT_S + 1.0 if mode == "hang" else 1.0
        time.sleep(chance.uniform(shortest_s, shortest_s + 5.0))
        proxy.set_mode("pass")

    def _come_and_go(self, role: During, *, hard: bool) -> None:
        """A third member joins, stays until it was given partitions, and leaves or is killed."""
        guest = self._make_member(f"guest{self._guests}")
        self._guests += 1
        try:
            deadline = time.monotonic() + _JOIN_LIMIT_S
            while not guest.was_given(role):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no partition of {role} came to a third member")
                guest.watch()
                time.sleep(WATCH_S)
            time.sleep(_GUEST_STAYS_S)
        finally:
            guest.leave(hard=hard)
