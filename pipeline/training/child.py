"""The training process, started by `pipeline.jobs.training_process`: trains and merges on request.

The base model stays in memory between jobs. torch is imported for the first training job, and not
for merges. The process dies with its parent, even when that is killed.
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

# A request of either kind. Fields are checked strictly, so that neither is taken for the other.
REQUEST: TypeAdapter[TrainingSpec | MergeSpec] = TypeAdapter(TrainingSpec | MergeSpec)

OnProgress = Callable[[TrainingProgress], None]


def serve(pipe: Connection, parent: int) -> None:
    """Serve requests from the pipe, one at a time, until it is closed.

    A request is a TrainingSpec or a MergeSpec as JSON, and `stop` cancels the run under way. Every
    message back is a JSON object with the attempt as `run` and one of `progress`, `outcome`, or
    `code` with `message`. `parent` is the parent's process id.
    """
    end_with_parent(parent)
    # Ctrl-C signals the whole process group; the parent decides what happens to the job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # OpenMP's threads busy-wait at every barrier. By default they do so for so long that training
    # beside another busy process takes several times as long. 30,000 iterations cost an idle
    # machine nothing (12.1 s against 11.9 s an epoch of the demo; 1,000 cost 60 %). libgomp reads
    # the variable when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    train = _Trainer()
    while True:
        try:
            request = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        if request != b"stop":
            spec = REQUEST.validate_json(request)
            _send(pipe, {"run": spec.attempt} | _serve_request(spec, train, pipe))
            _release_memory()


class _Trainer:
    """Trains with the base model cached; imports torch for the first job that needs it."""

    def __init__(self) -> None:
        self._cache: Any = None

    def __call__(
        self, spec: TrainingSpec, *, on_progress: OnProgress, should_stop: Callable[[], bool]
    ) -> TrainingOutcome:
        from pipeline.training.base_model import BaseModelCache
        from pipeline.training.recipe import train

        self._cache = self._cache or BaseModelCache()
        return train(spec, self._cache, on_progress=on_progress, should_stop=should_stop)


def _serve_request(
    spec: TrainingSpec | MergeSpec, train: _Trainer, pipe: Connection
) -> dict[str, Any]:
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
    except Exception as error:  # The child's outer edge: the worker decides what to do.
        # The error's own text may quote an elder, so only its type and place are sent.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        message = f"{type(error).__name__} at {where}"
        return {"code": TrainingFailed.code, "message": message}


def _release_memory() -> None:
    """Collect garbage and return free pages to the system, which glibc keeps (malloc_trim(3))."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _stop_requested(pipe: Connection) -> bool:
    try:
        if not pipe.poll(0):
            return False
        pipe.recv_bytes()  # While a run is under way the parent sends nothing but "stop".
    except (EOFError, OSError):
        pass
    return True


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    try:
        pipe.send_bytes(json.dumps(message).encode())
    except OSError as error:
        raise JobCancelled("the worker is gone") from error
