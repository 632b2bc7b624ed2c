"""What runs Kafka: the poll loop, offsets, lanes, dispatch, the backlog and backoff."""
