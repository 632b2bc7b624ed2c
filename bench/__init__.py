"""Paired benchmarks; each file says how it is run."""

import sys

import structlog

# What is printed is the result, also with `--json`; what the service logs goes beside it.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
