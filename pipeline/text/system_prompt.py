"""The system prompt: the elder's name, and the elder's first answers as memories."""

from collections.abc import Sequence

from config.training import Language, PromptTemplates
from pipeline.text.languages import language_of
from pipeline.text.sentences import cut_at_sentence, estimate_tokens

# Longer memories are cut, so that one of them does not take the space of the others.
MEMORY_TOKENS = 80


class SystemPromptGenerator:
    """Fills the configured template. The class keeps the name of the original API."""

    def __init__(self, templates: PromptTemplates) -> None:
        self._templates = templates

    def generate(self, name: str, memories: Sequence[str], language: Language | None = None) -> str:
        """Return the system prompt for `name` with these memories, one per line.

        Without `language`, the memories' own language is used; Chinese if there are none.
        """
        spoken = language or (language_of("".join(memories)) if memories else "zh")
        template = self._templates.zh if spoken == "zh" else self._templates.en
        lines = "\n".join(f"- {shorten(memory)}" for memory in memories)
        # What was filled in is not searched for placeholders: `{name}` in a memory stays text.
        before, _, after = template.partition("{memories}")
        return "\n".join(
            part.strip()
            for part in (before.replace("{name}", name), lines, after.replace("{name}", name))
            if part.strip()
        )


def shorten(memory: str) -> str:
    """Put a memory on one line and keep its leading sentences, up to `MEMORY_TOKENS`."""
    line = " ".join(memory.split())
    return line if estimate_tokens(line) <= MEMORY_TOKENS else cut_at_sentence(line, MEMORY_TOKENS)
