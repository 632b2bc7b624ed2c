"""Every shape that crosses a boundary: events, documents, topics, errors.

This room owns names and types. It does no I/O and imports nothing of the other rooms.
"""
