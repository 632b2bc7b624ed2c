"""What runs: Kafka's consumers, one handler a topic, workers, and the composition root."""
