"""The demo: two invented elders, their answers, and the whole way to a chat, on real parts."""
