"""Threads of the process that must not end before it does: started, watched and waited for."""

import threading
from collections.abc import Callable

import structlog

from consumers.kafka.faults import describe_fault

log = structlog.get_logger(__name__)


class WatchedThreads:
    """Starts threads; `watch` gets each of them, so that /livez reports one that has ended."""

    def __init__(self, watch: Callable[[threading.Thread], None]) -> None:
        self._watch = watch
        self._threads: list[threading.Thread] = []

    def start(self, name: str, run: Callable[[], None]) -> None:
        """Run a function in a thread; an error that escapes it is logged and ends the thread."""

        def run_and_log() -> None:
            try:
                run()
            except Exception as error:  # the thread's edge: it ends, and /livez says so
                log.error("thread.fault", thread=name, fault=describe_fault(error))

        thread = threading.Thread(target=run_and_log, name=name)
        thread.start()
        self._watch(thread)
        self._threads.append(thread)

    def join(self) -> None:
        """Wait until all of them have ended."""
        for thread in self._threads:
            thread.join()
