"""The operators' HTTP server and the logs."""

from typing import Literal

from config.section import Port, Seconds, Section


class OpsSettings(Section):
    """The operators' server: `/metrics`, `/livez` and `/readyz`."""

    host: str = "127.0.0.1"
    """The address on which it listens."""
    port: Port = 9108
    """The port on which it listens; 0 takes a free one."""
    stale_after_s: Seconds = 30.0
    """`/livez` fails when a consumer has not polled for this long."""


class LogSettings(Section):
    """The logs. They go to standard error, and to a daily file below the data folder."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged."""
    format: Literal["console", "json"] = "json"
    """`console` for people, `json` for machines; the file is always JSON."""
    file: bool = True
    """Write `logs/modelserver_YYYYMMDD.log` below the data folder too."""
