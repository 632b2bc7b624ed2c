"""What is in weight files, read without torch: GGUF, architectures, the plan of a merge."""
