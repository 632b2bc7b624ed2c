"""Durable state: MongoDB with its leases, files written whole or not at all, sealed folders."""
