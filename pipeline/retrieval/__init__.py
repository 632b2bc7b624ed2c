"""Retrieval: finds which of an elder's own answers a question is about."""
