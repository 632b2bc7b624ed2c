"""Threads that take jobs and events from the ledger; they read no topic."""
