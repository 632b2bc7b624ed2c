"""Publishing to Kafka: confirmed delivery, events, replies, the relay, dead letters."""
