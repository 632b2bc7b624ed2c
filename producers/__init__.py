"""Everything that is published: confirmed delivery, events, replies, the relay, dead letters."""
