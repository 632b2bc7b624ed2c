"""Consuming from Kafka: the poll loop, offsets, commits, lanes, dispatch, backlog, backoff."""
