"""A base model and an adapter merged into one GGUF file, a tensor at a time."""
