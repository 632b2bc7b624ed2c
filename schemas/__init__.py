"""Every shape that crosses a boundary: events, documents, topics, errors, exit codes.

This package owns names and types. It does no I/O and imports none of the others.
"""
