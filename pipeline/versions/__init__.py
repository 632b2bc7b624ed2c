"""The versions of each persona: registry, `latest`, rollback and retention."""
