"""Finding the answers that a question is about."""
