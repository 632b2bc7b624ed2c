"""The system prompt: who speaks, and the first of what she told."""

from collections.abc import Sequence

from config.training import Language, PromptTemplates
from pipeline.text.cleaning import cut_at_sentence, estimate_tokens, language_of

# One long memory must not push out the others.
MEMORY_TOKENS = 80


class SystemPromptGenerator:
    """Fills the configured template (the original API's name)."""

    def __init__(self, templates: PromptTemplates) -> None:
        self._templates = templates

    def generate(self, name: str, memories: Sequence[str], language: Language | None = None) -> str:
        """Return the system prompt for `name` with these memories, one a line.

        Without `language` the memories' own decides, and Chinese where there are none.
        """
        spoken = language or (language_of("".join(memories)) if memories else "zh")
        template = self._templates.zh if spoken == "zh" else self._templates.en
        lines = "\n".join(f"- {shorten(memory)}" for memory in memories)
        # Replaced in one pass each: a brace in a name or memory is only text.
        before, _, after = template.partition("{memories}")
        return "\n".join(
            part.strip()
            for part in (before.replace("{name}", name), lines, after.replace("{name}", name))
            if part.strip()
        )


def shorten(memory: str) -> str:
    """Keep the leading sentences of a memory on one line."""
    line = " ".join(memory.split())
    return line if estimate_tokens(line) <= MEMORY_TOKENS else cut_at_sentence(line, MEMORY_TOKENS)
