"""The running service: Kafka consumers, a handler per topic, workers, the composition root."""
