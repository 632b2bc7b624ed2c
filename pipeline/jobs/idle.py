"""Evaluations run while their host is idle: the families' conversations go first.

To load a candidate a host may have to unload a persona: Ollama before 0.34.1 always does, since it
keeps one persona per base in memory; later versions do when memory or OLLAMA_MAX_LOADED_MODELS is
exhausted. So an evaluation waits until no persona has been asked for a while, and afterwards
restores what was loaded before.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from config.settings import EvaluationSettings
from pipeline.hosting.port import LoadedModel, ModelHost
from schemas.errors import ModelServerError
from schemas.hosting import Form
from schemas.identifiers import MODEL_PREFIX, is_passing

_POLL_INTERVAL_S = 0.5


class IdleHost:
    """Waits until a host is idle, and restores the loaded models afterwards."""

    def __init__(
        self,
        host: ModelHost,
        settings: EvaluationSettings,
        num_ctx: int,
        *,
        pause: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_ctx` is the window, in tokens, with which personas are loaded again."""
        self._host = host
        self._settings = settings
        self._num_ctx = num_ctx
        self._pause = pause
        self._monotonic = monotonic

    @contextmanager
    def when_idle(self, candidate: str, form: Form, check: Callable[[], None]) -> Iterator[None]:
        """Enter once no persona was asked for `quiet_s`, or after `quiet_wait_s` at the latest.

        On leaving, the candidate is unloaded and each persona that it displaced is loaded again.
        `check` is called while waiting and may raise to abandon the wait. The form `shared`
        displaces no persona, so nothing is waited for.
        """
        if form == "shared":
            yield
            return
        before = self._await_idle(check)
        try:
            yield
        finally:
            # With no persona loaded before, the candidate stays: its version has the same file.
            if before:
                with suppress(ModelServerError):  # The evaluation's result stands regardless.
                    self._restore(candidate, before)

    def _await_idle(self, check: Callable[[], None]) -> frozenset[LoadedModel]:
        """Return the personas that are loaded when the wait ends."""
        begun = unchanged_since = self._monotonic()
        seen = self._loaded_personas()
        while seen and not self._is_over(begun, unchanged_since):
            check()
            self._pause(_POLL_INTERVAL_S)
            now = self._loaded_personas()
            if now != seen:
                seen, unchanged_since = now, self._monotonic()
        return seen

    def _is_over(self, begun: float, unchanged_since: float) -> bool:
        now = self._monotonic()
        is_idle = now - unchanged_since >= self._settings.quiet_s
        return is_idle or now - begun >= self._settings.quiet_wait_s

    def _restore(self, candidate: str, before: frozenset[LoadedModel]) -> None:
        self._host.unload(candidate)
        still_loaded = {model.name for model in self._host.loaded()}
        for name in sorted({model.name for model in before} - still_loaded):
            self._host.load(name, self._num_ctx)

    def _loaded_personas(self) -> frozenset[LoadedModel]:
        return frozenset(
            model
            for model in self._host.loaded()
            if model.name.startswith(MODEL_PREFIX) and not is_passing(model.name)
        )
