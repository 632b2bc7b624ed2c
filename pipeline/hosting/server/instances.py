"""One loaded runner, the requests in flight on it, and its end: drained first, then closed."""

import threading
from collections.abc import Callable

from pipeline.hosting.server.runner import Runner


class Instance:
    """A loaded runner. Every method but `wait_until_closed` is called with the owner's lock held.

    `admit` and `leave` count the requests in flight exactly. A retired instance admits nobody;
    it is closed in a thread of its own when its last request has left, or after `drain_s`.
    """

    def __init__(self, runner: Runner, model: str, now: float) -> None:
        self.runner = runner
        self.model = model
        """Whom it answered for last."""
        self.used_at = now
        self.loaded_at = now
        self.in_flight = 0
        self.is_retired = False
        self._closing: threading.Thread | None = None
        self._deadline: threading.Timer | None = None
        self._closed = threading.Event()
        # The timer does not hold the owner's lock.
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
        """Admit nobody any more; close when the last request has left, at the latest in time."""
        if self.is_retired:
            return
        self.is_retired = True
        if not self.in_flight:
            self._close()
            return
        self._deadline = _timer(drain_s, self._close)

    def wait_until_closed(self, timeout_s: float) -> bool:
        """Wait for the end of a retired instance; say whether it came."""
        return self._closed.wait(timeout_s)

    def _close(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        with self._closing_lock:
            if self._closing is None:
                # A process takes its time to end; whoever left last is not kept waiting for it.
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
