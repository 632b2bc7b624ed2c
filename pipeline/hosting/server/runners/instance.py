"""One loaded runner, the requests in flight on it, and its end: drained first, then closed."""

import threading
from collections.abc import Callable

from pipeline.hosting.server.runners.runner import Runner


class Instance:
    """A loaded runner that counts its requests in flight.

    A retired instance admits no request. A separate thread closes it when its last request has
    left, or after `drain_s`. The caller of every method but `wait_until_closed` holds the
    scheduler's lock.
    """

    def __init__(self, runner: Runner, model: str, now: float) -> None:
        self.runner = runner
        self.model = model
        """The model it served last."""
        self.used_at = now
        self.loaded_at = now
        self.in_flight = 0
        self.is_retired = False
        self._closing: threading.Thread | None = None
        self._deadline: threading.Timer | None = None
        self._closed = threading.Event()
        # The timer runs without the scheduler's lock.
        self._closing_lock = threading.Lock()

    def admit(self, model: str, now: float) -> None:
        """Count a request in."""
        self.in_flight += 1
        self.model, self.used_at = model, now

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        if self.is_retired and not self.in_flight:
            self._close()

    def retire(self, drain_s: float) -> None:
        """Admit no further request; close when the last one has left, or after `drain_s`."""
        if self.is_retired:
            return
        self.is_retired = True
        if not self.in_flight:
            self._close()
            return
        self._deadline = _timer(drain_s, self._close)

    def wait_until_closed(self, timeout_s: float) -> bool:
        """Wait until a retired instance is closed; return false if `timeout_s` passes first."""
        return self._closed.wait(timeout_s)

    def _close(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        with self._closing_lock:
            if self._closing is None:
                # Ending a process takes time, which the last request should not wait for.
                self._closing = threading.Thread(target=self._close_runner, daemon=True)
                self._closing.start()

    def _close_runner(self) -> None:
        try:
            self.runner.close()
        finally:
            self._closed.set()


def _timer(after_s: float, call: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(after_s, call)
    timer.daemon = True
    timer.start()
    return timer
