"""Durable state: MongoDB, files written whole or not at all, sealed folders, leases."""
