"""Structured logs: events with fields, never what an elder or a family said.

JSON or console lines go to standard error; with a folder, JSON lines also go to a file a day,
`modelserver_YYYYMMDD.log`.
"""

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import structlog

from config.settings import LogSettings

Processor = Callable[[Any, str, Any], Any]


class DailyFile(logging.Handler):
    """Appends to `modelserver_YYYYMMDD.log`; a new day begins a new file."""

    def __init__(self, folder: Path, clock: Callable[[], datetime] = datetime.now) -> None:
        super().__init__()
        self._folder = folder
        self._clock = clock
        self._day = ""
        self._file: TextIO | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. A full disk loses log lines, never the work."""
        try:
            day = self._clock().strftime("%Y%m%d")
            if self._file is None or day != self._day:
                self.close_file()
                self._day = day
                path = self._folder / f"modelserver_{day}.log"
                self._file = path.open("a", encoding="utf-8")
            self._file.write(self.format(record) + "\n")
            self._file.flush()
        except OSError:
            self.handleError(record)

    def close_file(self) -> None:
        """Close the day's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close the file and the handler."""
        self.close_file()
        super().close()


def configure_logs(settings: LogSettings, folder: Path | None = None) -> None:
    """Set up structlog and the standard library's logging, for the whole process."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(_formatter(settings.format == "json", shared))
    root.addHandler(console)
    if settings.file and folder is not None:
        daily = DailyFile(folder)
        daily.setFormatter(_formatter(True, shared))
        root.addHandler(daily)
    root.setLevel(settings.level.upper())
    for noisy in ("httpx", "httpcore", "pymongo"):
        logging.getLogger(noisy).setLevel("WARNING")


def _formatter(as_json: bool, shared: list[Processor]) -> logging.Formatter:
    renderer: Processor
    if as_json:
        # Variables in a traceback could be an elder's words: only file, line and error are logged.
        chain: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        chain = [renderer]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *chain],
    )
