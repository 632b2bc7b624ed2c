"""The training process itself: it trains and merges what its parent asks for.

The base model stays in memory between jobs. Torch is loaded for the first training, and never for
a merge alone. The process ends with its parent, even when that is killed.
"""

import ctypes
import gc
import json
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from pydantic import TypeAdapter

from pipeline.processes.server_process import end_with_parent
from schemas.errors import JobCancelled, ModelServerError, TrainingFailed
from schemas.hosting import MergeOutcome, MergeSpec
from schemas.training import TrainingOutcome, TrainingProgress, TrainingSpec

# What the process is asked for; no field of the one is allowed in the other.
REQUEST: TypeAdapter[TrainingSpec | MergeSpec] = TypeAdapter(TrainingSpec | MergeSpec)

OnProgress = Callable[[TrainingProgress], None]


def serve(pipe: Connection, parent: int) -> None:
    """Be the child: train and merge what comes through the pipe until it is closed."""
    end_with_parent(parent)
    # Ctrl-C reaches the whole process group; the parent decides what becomes of the job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # OpenMP's threads spin at every barrier, by default so long that beside another busy process
    # training takes several times as long. This many turns cost an idle machine nothing
    # (12.1 s against 11.9 s an epoch of the demo; 1,000 turns cost 60 %). libgomp reads it when
    # torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    train = _Training()
    while True:
        try:
            request = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        if request != b"stop":
            spec = REQUEST.validate_json(request)
            _send(pipe, {"run": spec.attempt} | _do(spec, train, pipe))
            _give_memory_back()


class _Training:
    """Training with the base model kept; torch is loaded for the first job that needs it."""

    def __init__(self) -> None:
        self._cache: Any = None

    def __call__(
        self, spec: TrainingSpec, *, on_progress: OnProgress, should_stop: Callable[[], bool]
    ) -> TrainingOutcome:
        from pipeline.training.base_model import BaseModelCache
        from pipeline.training.recipe import train

        self._cache = self._cache or BaseModelCache()
        return train(spec, self._cache, on_progress=on_progress, should_stop=should_stop)


def _do(spec: TrainingSpec | MergeSpec, train: _Training, pipe: Connection) -> dict[str, Any]:
    def tell(progress: TrainingProgress) -> None:
        _send(pipe, {"run": spec.attempt, "progress": progress.model_dump(mode="json")})

    def should_stop() -> bool:
        return _stop_requested(pipe)

    outcome: TrainingOutcome | MergeOutcome
    try:
        if isinstance(spec, MergeSpec):
            from pipeline.training.merging.merge import merge

            outcome = merge(spec, on_progress=tell, should_stop=should_stop)
        else:
            outcome = train(spec, on_progress=tell, should_stop=should_stop)
        return {"outcome": outcome.model_dump(mode="json")}
    except ModelServerError as error:
        return {"code": error.code, "message": error.message}
    except Exception as error:  # the edge of the child: the worker decides what to do
        # Its text may hold what it was trained on; type and place say enough.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        message = f"{type(error).__name__} at {where}"
        return {"code": TrainingFailed.code, "message": message}


def _give_memory_back() -> None:
    """Collect garbage and return free pages; glibc would keep them (malloc_trim(3))."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _stop_requested(pipe: Connection) -> bool:
    try:
        if not pipe.poll(0):
            return False
        pipe.recv_bytes()  # Nothing but "stop" is sent while a run is under way.
    except (EOFError, OSError):
        pass
    return True


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    try:
        pipe.send_bytes(json.dumps(message).encode())
    except OSError as error:
        raise JobCancelled("the worker is gone") from error
