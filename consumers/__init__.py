"""What runs: the poll loop, one handler a topic, the worker, the composition root, the CLI."""
