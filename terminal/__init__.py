"""What the commands and the demo share: output, progress bars and wiring."""
