"""The job ledger: what is to be done, who does it, and what the world is told of it."""
