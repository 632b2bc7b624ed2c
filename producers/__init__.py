"""Everything that is published: confirmed delivery, typed events, the relay, dead letters."""
