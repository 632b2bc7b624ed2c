"""Turns a conversation into a prompt, by Ollama's rules for templates.

A template that names `.Messages` is rendered once, over the whole conversation. Any other template
is rendered once per turn, with `.System`, `.Prompt` and `.Response`; the last turn only up to
`.Response`, where the model continues.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from pipeline.hosting.server.conversation import Turn
from pipeline.hosting.server.go_template.parser import parse_template
from pipeline.hosting.server.go_template.rendering import render_nodes
from pipeline.hosting.server.go_template.response import RESPONSE, cut_after_response, mentions


class PromptTemplate:
    """A parsed template, ready to turn conversations into prompts."""

    def __init__(self, source: str) -> None:
        """Parse the template.

        Raises:
            TemplateError: it is malformed, or uses an unsupported construct.
        """
        nodes = parse_template(source)
        self._is_over_messages = mentions(nodes, "Messages")
        if not self._is_over_messages and not mentions(nodes, "Response"):
            nodes = (*nodes, RESPONSE)
        self._nodes = nodes
        self._last_turn, _ = cut_after_response(nodes)

    def render(self, turns: Sequence[Turn]) -> str:
        """Return the prompt for a conversation."""
        system, merged = _merge(turns)
        if self._is_over_messages:
            messages = [{"Role": turn.role, "Content": turn.content} for turn in merged]
            return render_nodes(
                self._nodes, {"System": system, "Messages": messages, "Response": ""}
            )
        return self._render_turn_by_turn(merged)

    def _render_turn_by_turn(self, turns: Sequence[Turn]) -> str:
        prompt: list[str] = []
        values = dict.fromkeys(("System", "Prompt", "Response"), "")

        def flush() -> None:
            prompt.append(render_nodes(self._nodes, dict(values)))
            values.update(System="", Prompt="", Response="")

        for turn in turns:
            if turn.role == "system":
                if values["Prompt"] or values["Response"]:
                    flush()
                values["System"] = turn.content
            elif turn.role == "user":
                if values["Response"]:
                    flush()
                values["Prompt"] = turn.content
            elif turn.role == "assistant":
                values["Response"] = turn.content
        prompt.append(render_nodes(self._last_turn, values))
        return "".join(prompt)


@lru_cache(maxsize=256)
def compile_template(source: str) -> PromptTemplate:
    """Return the parsed template, cached.

    Raises:
        TemplateError: it is malformed, or uses an unsupported construct.
    """
    return PromptTemplate(source)


def fit_prompt(
    template: PromptTemplate,
    turns: Sequence[Turn],
    token_limit: int,
    count_tokens: Callable[[str], int],
) -> str:
    """Render the conversation, leaving out the oldest turns while the prompt is too long.

    System messages and the last turn always stay, so the prompt may still be too long.
    """
    for first in range(len(turns)):
        kept = [turn for turn in turns[:first] if turn.role == "system"]
        prompt = template.render([*kept, *turns[first:]])
        # A token is at least one byte long, so most prompts need no counting.
        if len(prompt.encode()) < token_limit or count_tokens(prompt) <= token_limit:
            break
    return prompt if turns else template.render(())


def _merge(turns: Sequence[Turn]) -> tuple[str, list[Turn]]:
    """Return all system texts joined, and the turns with neighbours of the same role merged."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            joined = f"{merged[-1].content}\n\n{turn.content}"
            merged[-1] = Turn(role=turn.role, content=joined)
        else:
            merged.append(turn)
    return "\n\n".join(turn.content for turn in turns if turn.role == "system"), merged
