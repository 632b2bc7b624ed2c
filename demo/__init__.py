"""The demo: two invented elders, from their answers to a chat, on the real service."""
