"""What happens to a record: one handler for each inbound topic."""
