"""Weight files, read without torch: GGUF headers, architectures, the plan of a merge."""
