"""A chat: from the question to the reply with its sources."""
