"""The port to one loaded llama.cpp: a base model with the adapters that were loaded with it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.hosting.server.completions.options import Options
from pipeline.hosting.server.runners.usage import TokenLogprob, Usage


class Runner(Protocol):
    """A loaded llama.cpp. Immutable: a different set of adapters needs a different runner."""

    context: int
    """Tokens of context of each request, prompt and answer together."""
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
        """Complete a prompt. Blocks the calling thread until the answer ends.

        Args:
            prompt: the rendered prompt.
            options: sampling options and the limits on context and answer.
            adapters: digests of the adapters to apply, each at scale 1; all others get scale 0.
            cuts: whether a prompt that is too long is cut in its middle; otherwise it is refused.
            schema: a JSON schema that the answer must follow.
            on_piece: receives each piece of text and returns true to stop. Before the first
                piece it may be called with an empty one, so that a cancelled request is noticed.
            top_logprobs: how many of the likeliest tokens `on_logprobs` receives per position.
            on_logprobs: receives a piece's tokens before `on_piece` receives the piece. Without
                it, no probabilities are computed.

        Returns:
            Token counts and durations; `done_reason` is "cancelled" if `on_piece` stopped it.

        Raises:
            Refusal: llama.cpp's own error; 400, the prompt is too long; 503, llama.cpp ended or
                was closed before the answer was complete.
        """

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt, including its BOS token."""

    def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[list[float]], int]:
        """Embed texts.

        Args:
            texts: any number of them.
            dimensions: how many leading components of each vector are kept; None: all.

        Returns:
            One vector per text, normalised to length 1, and the total number of tokens.

        Raises:
            Refusal: llama.cpp's own error.
        """

    def fault(self) -> str | None:
        """Return how the process ended, or None while it runs. Cheap enough for every request."""

    def close(self) -> None:
        """Free the memory. Called once; requests still in flight fail with 503."""


class LoadRunner(Protocol):
    """Loads a runner."""

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
        """Load a base together with its adapters.

        Args:
            base: the base's GGUF file.
            adapters: the adapters' GGUF files by digest.
            context: tokens of context of each request, prompt and answer together.
            slots: how many requests are served in parallel.
            threads: how many threads compute.
            embeds: whether the runner serves embeddings instead of completions.
            pools_last_token: whether the last token's vector is the embedding; for a base whose
                file names no pooling.

        Raises:
            Refusal: 500, llama.cpp cannot load the files, or loaded others than it was given.
        """
