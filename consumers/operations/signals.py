"""Signals: SIGTERM and SIGINT ask the process to stop, and a second one ends it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(*, raise_interrupt: bool = False) -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set; at the end, restore the former handlers.

    With `raise_interrupt` the main thread also gets KeyboardInterrupt: for a command that waits
    in many places and has nothing to finish.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            # The second signal: leave without waiting. Leases and offsets stay safe.
            os._exit(128 + number)
        stop.set()
        if raise_interrupt:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
