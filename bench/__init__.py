"""Paired benchmarks; each module says how to run it."""

import sys

import structlog

# Standard output carries the result alone, as `--json` needs; the log goes to standard error.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
