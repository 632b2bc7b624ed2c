"""The steps of a job of the training role."""
