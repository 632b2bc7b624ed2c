"""Reads and writes weights: training, merging, conversion. Runs in the training process alone."""
