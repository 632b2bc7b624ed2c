"""What is done with a record: one module for each inbound topic."""
