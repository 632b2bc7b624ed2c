"""A runner without weights: it answers with the adapters that apply, and fails on demand."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.hosting.server.completions.options import Options
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.usage import TokenLogprob, Usage


class FakeLlamaRunner:
    """A loaded fake. Setting `death` makes it fail as if its process had ended."""

    def __init__(self, base: Path, adapters: Mapping[str, Path], context: int) -> None:
        self.base = base
        self.context = context
        self.adapters = tuple(adapters)
        self.death: str | None = None
        self.closed = threading.Event()

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
        """Answer with the digest of each adapter as one piece, or with `plain`."""
        if not set(adapters) <= set(self.adapters):
            raise Refusal(500, "the model's adapters are not loaded here")
        if len(prompt) >= min(self.context, options.num_ctx) and not cuts:
            raise Refusal(400, "the input length exceeds the context length")
        pieces = 0
        for text in adapters or ("plain",):
            self._check()
            pieces += 1
            if on_logprobs is not None:
                on_logprobs([TokenLogprob(token=text, logprob=0.0, top=())])
            if on_piece(text):
                return _usage("cancelled", prompt, pieces)
        return _usage("stop", prompt, pieces)

    def count_tokens(self, text: str) -> int:
        """Count characters."""
        return len(text)

    def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[list[float]], int]:
        """Return the same vector for every text."""
        self._check()
        return [[1.0, 0.0][:dimensions] for _ in texts], sum(map(len, texts))

    def fault(self) -> str | None:
        """Return `death`."""
        return self.death

    def close(self) -> None:
        """Close; asserts that the caller does so only once."""
        assert not self.closed.is_set(), "closed twice"
        self.closed.set()

    def _check(self) -> None:
        if self.death or self.closed.is_set():
            raise Refusal(503, self.death or "closed under a request")


class FakeLlama:
    """Loads fakes. Loads block while `gate` is clear and fail for `damaged` adapters and bases."""

    def __init__(self) -> None:
        self.loads: list[FakeLlamaRunner] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.damaged: set[str] = set()
        self.capacity: int | None = None
        """How many runners fit into memory; None for any number."""
        self.attempts = 0

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
    ) -> FakeLlamaRunner:
        """Load."""
        self.attempts += 1
        self.begun.release()
        assert self.gate.wait(20), "the test never opened the gate"
        if self.damaged & {*adapters, base.name.replace("-", ":")}:
            raise Refusal(500, "llama.cpp cannot load the model")
        still_there = sum(not each.closed.is_set() for each in self.loads)
        if self.capacity is not None and still_there >= self.capacity:
            raise Refusal(500, "llama.cpp cannot load the model: out of memory")
        runner = FakeLlamaRunner(base, adapters, context)
        self.loads.append(runner)
        return runner


def _usage(reason: str, prompt: str, pieces: int) -> Usage:
    return Usage(
        done_reason=reason,
        prompt_tokens=len(prompt),
        prompt_ns=0,
        answer_tokens=pieces,
        answer_ns=0,
    )
