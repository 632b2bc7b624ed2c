"""The port to one loaded llama.cpp: a base model with the adapters that were loaded with it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.hosting.server.options import Options
from pipeline.hosting.server.shapes import TokenLogprob, Usage


class Runner(Protocol):
    """A loaded llama.cpp; immutable: another set of adapters is another runner."""

    context: int
    """Tokens that a request may have, prompt and answer together."""
    adapters: tuple[str, ...]
    """The digests of the loaded adapters."""

    def complete(
        self,
        prompt: str,
        options: Options,
        *,
        adapters: Sequence[str],
        cuts: bool,
        schema: dict[str, Any] | None,
        on_piece: Callable[[str], bool],
        top_logprobs: int = 0,
        on_logprobs: Callable[[Sequence[TokenLogprob]], None] | None = None,
    ) -> Usage:
        """Answer a prompt, in the calling thread.

        Args:
            adapters: the digests of those that apply, each in full; all others do not apply.
            cuts: whether a prompt that is too long is cut or refused.
            schema: a JSON schema which the answer must follow.
            on_piece: gets each piece of text; returns true to stop. While there is none yet it
                may be called with an empty one, so that whoever has left is noticed.
            top_logprobs: how many of the likeliest tokens `on_logprobs` gets for each place.
            on_logprobs: gets the tokens of a piece before `on_piece` gets the piece; None: the
                probabilities are not computed.

        Raises:
            Refusal: as llama.cpp refused it; 400 for a prompt that is too long; 503 where it
                ended or was closed, before or while it answered.
        """

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt, its BOS among them."""

    def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[list[float]], int]:
        """Return one vector a text, each of length 1, and the number of tokens.

        Args:
            dimensions: how many of the vectors' numbers are kept; None: all.

        Raises:
            Refusal: as llama.cpp refused it.
        """

    def fault(self) -> str | None:
        """Say why it answers no more, or None while it is well; costs next to nothing."""

    def close(self) -> None:
        """Give its memory back; called once.

        No request is under way any more, or those that are have had their time: they fail.
        """


class LoadRunner(Protocol):
    """Loads a llama.cpp."""

    def __call__(
        self,
        base: Path,
        adapters: Mapping[str, Path],
        *,
        context: int,
        slots: int,
        threads: int,
        embeds: bool = False,
        pools_last_token: bool = False,
    ) -> Runner:
        """Load a base and its adapters (digest → file).

        Args:
            context: tokens that a request may have, prompt and answer together.
            slots: how many requests are worked on at once.
            embeds: for embeddings and nothing else.
            pools_last_token: the base does not say how its tokens become one vector.

        Raises:
            Refusal: 500, llama.cpp cannot load them.
        """
