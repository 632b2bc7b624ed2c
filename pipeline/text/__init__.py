"""Text, without input or output: chat formats, markers, cleaning, rewording, system prompt."""
