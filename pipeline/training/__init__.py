"""Reads and writes weights: training, merging, conversion. Runs only in the training process."""
