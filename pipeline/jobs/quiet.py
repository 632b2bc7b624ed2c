"""A quiet moment for an evaluation: the families' conversations go first.

A host may have to unload a persona to load the candidate: Ollama before 0.34.1 always, for it holds
one persona a base; later ones where memory or OLLAMA_MAX_LOADED_MODELS ends. So the evaluation
waits until nobody was asked for a while, and afterwards the host is left as it was found.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from config.settings import EvaluationSettings
from pipeline.hosting.port import LoadedModel, ModelHost
from schemas.errors import ModelServerError
from schemas.hosting import Form
from schemas.identifiers import MODEL_PREFIX, is_passing

_LOOK_S = 0.5


class QuietMoments:
    """Finds quiet moments on one host."""

    def __init__(
        self,
        host: ModelHost,
        settings: EvaluationSettings,
        num_ctx: int,
        *,
        pause: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_ctx` is the window with which personas are loaded again."""
        self._host = host
        self._settings = settings
        self._num_ctx = num_ctx
        self._pause = pause
        self._monotonic = monotonic

    @contextmanager
    def quiet(self, candidate: str, form: Form, check: Callable[[], None]) -> Iterator[None]:
        """Wait for a quiet moment, at most `quiet_wait_s`; afterwards bring back who had to go.

        `check` is asked while it waits, and may raise. A host that shares a base among its
        personas needs no such moment.
        """
        if form == "shared":
            yield
            return
        before = self._wait(check)
        try:
            yield
        finally:
            # Where nobody was there the candidate stays in memory: its version has the same file.
            if before:
                with suppress(ModelServerError):  # The evaluation has its result all the same.
                    self._leave_as_found(candidate, before)

    def _wait(self, check: Callable[[], None]) -> frozenset[LoadedModel]:
        begun = unchanged_since = self._monotonic()
        seen = self._personas()
        while seen and not self._is_over(begun, unchanged_since):
            check()
            self._pause(_LOOK_S)
            now = self._personas()
            if now != seen:
                seen, unchanged_since = now, self._monotonic()
        return seen

    def _is_over(self, begun: float, unchanged_since: float) -> bool:
        now = self._monotonic()
        is_quiet = now - unchanged_since >= self._settings.quiet_s
        return is_quiet or now - begun >= self._settings.quiet_wait_s

    def _leave_as_found(self, candidate: str, before: frozenset[LoadedModel]) -> None:
        self._host.unload(candidate)
        still_there = {model.name for model in self._host.loaded()}
        for name in sorted({model.name for model in before} - still_there):
            self._host.load(name, self._num_ctx)

    def _personas(self) -> frozenset[LoadedModel]:
        return frozenset(
            model
            for model in self._host.loaded()
            if model.name.startswith(MODEL_PREFIX) and not is_passing(model.name)
        )
