"""Text without any input or output: chat format, markers, cleaning, rewording, system prompt."""
