"""Shared by the commands and the demo: output, progress bars and wiring."""
