"""Confirmations: the broker's outcomes for the records that were handed to a producer."""

import threading
from collections.abc import Callable

Told = Callable[[Exception | None], None]
"""Called once for a record, from any thread: with None when the broker confirmed it, else with
the error."""


class ConfirmationBatch:
    """The outcomes of a batch of records, awaited together; cheaper than a future for each."""

    def __init__(self) -> None:
        self.all_told = threading.Event()
        self._lock = threading.Lock()
        self._expected = 0
        self._left = 1  # The batch itself, until it is closed.
        self.failures: dict[int, Exception] = {}

    def expect(self) -> Told:
        """Return the function to call, once, with the outcome of the next record."""
        with self._lock:
            number = self._expected
            self._expected += 1
            self._left += 1

        def told(error: Exception | None) -> None:
            if error is not None:
                self.failures[number] = error
            self._one_less()

        return told

    def close(self) -> None:
        """Declare that no more records follow."""
        self._one_less()

    def _one_less(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.all_told.set()
