"""Threads that work on jobs and events in the ledger, and read no topic."""
