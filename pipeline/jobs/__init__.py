"""What a job of the training role does, step by step."""
