"""The versions of each persona: the registry, `latest`, rollback and removal."""
