"""The training room: what reads and writes weights, in the training process alone."""
