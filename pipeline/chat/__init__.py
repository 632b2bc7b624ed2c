"""A chat turn, from the question to the reply with its sources."""
