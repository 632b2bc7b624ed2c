"""The worker's side of the child process in which training and merging run.

The child is kept from job to job, so that libraries and the base model are loaded once. A crash in
it fails one attempt and nothing else; a kill fails none, and the next run starts a new child. The
child ends with its parent, even when the parent is killed.
"""

import importlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol, Self

from schemas.errors import TrainingFailed, TrainingKilled, error_of
from schemas.hosting import MergeOutcome, MergeSpec
from schemas.training import TrainingOutcome, TrainingProgress, TrainingSpec

_POLL_S = 0.2
_STOP_LIMIT_S = 30.0
# Sent by an operator, or by the kernel when memory is exhausted; a crash raises other signals.
_KILLED = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP})

# Imported by name, and only in the child: the worker's own process must not load torch.
_CHILD = "pipeline.training.child"

OnProgress = Callable[[TrainingProgress], None]


def _serve(pipe: Connection, parent: int) -> None:
    importlib.import_module(_CHILD).serve(pipe, parent)


class TrainingRunner(Protocol):
    """Runs one attempt at a job's training."""

    def run(
        self, spec: TrainingSpec, on_progress: OnProgress, check: Callable[[], None]
    ) -> TrainingOutcome:
        """Train and return the outcome.

        `check` is called several times a second and may raise: training then stops at its next
        step, and the exception is raised here. Raises TrainingFailed, TrainingKilled and the
        errors of the recipe.
        """

    def merge(
        self, spec: MergeSpec, on_progress: OnProgress, check: Callable[[], None]
    ) -> MergeOutcome:
        """Merge base and adapter into one sealed file; `check` works as in `run`.

        Raises AdapterMismatch, AdapterUnsupported, ArtefactCorrupt, QuantizerFailed,
        DiskUnavailable, TrainingFailed and TrainingKilled.
        """


class TrainingProcess:
    """Trains in a child process that is kept from job to job."""

    def __init__(
        self,
        child: Callable[[Connection, int], None] | None = None,
        *,
        silence_s: float = 3600.0,
    ) -> None:
        """`child` is what the child process runs; tests replace it.

        A child that sends nothing for `silence_s` is taken to hang, as a GPU or a disk may do for
        ever. Every training step is reported; the longest silence is the conversion of a large
        base.
        """
        self._silence_s = silence_s
        self._context = multiprocessing.get_context("spawn")
        self._target = child or _serve
        self._child: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.pid if self._child is not None and self._child.is_alive() else None

    def run(
        self, spec: TrainingSpec, on_progress: OnProgress, check: Callable[[], None]
    ) -> TrainingOutcome:
        """Train in the child; starts one if there is none."""
        outcome = self._request(spec, on_progress, check)
        return TrainingOutcome.model_validate_json(outcome)

    def merge(
        self, spec: MergeSpec, on_progress: OnProgress, check: Callable[[], None]
    ) -> MergeOutcome:
        """Merge in the child; starts one if there is none."""
        outcome = self._request(spec, on_progress, check)
        return MergeOutcome.model_validate_json(outcome)

    def _request(
        self,
        spec: TrainingSpec | MergeSpec,
        on_progress: OnProgress,
        check: Callable[[], None],
    ) -> str:
        """Send the child a specification and return the outcome as JSON.

        However this ends, the child is idle or gone afterwards: a late message must not be taken
        for the next elder's.
        """
        pipe = self._ensure_child()
        try:
            pipe.send_bytes(spec.model_dump_json().encode())
            last = self._follow(pipe, spec.attempt, on_progress, check)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            exit_code = self._reap()
            if exit_code in _KILLED:
                raise TrainingKilled from error
            raise TrainingFailed(
                f"the training process ended with exit code {exit_code}; the next attempt resumes "
                "from the last checkpoint"
            ) from error
        except BaseException:
            self._stop_training()
            raise
        if "outcome" in last:
            return json.dumps(last["outcome"])
        if last["code"] == TrainingFailed.code:
            # The child may be unusable, as after a CUDA error; the next job gets a new one.
            self.close()
        raise error_of(last["code"], last["message"])

    def _follow(
        self, pipe: Connection, run: str, on_progress: OnProgress, check: Callable[[], None]
    ) -> dict[str, Any]:
        """Report progress until the run's last message arrives, and return that message."""
        heard_at = time.monotonic()
        while True:
            check()
            if not pipe.poll(_POLL_S):
                if time.monotonic() - heard_at > self._silence_s:
                    self.close()
                    raise TrainingFailed(
                        f"the training process said nothing for {self._silence_s:.0f} s; "
                        "look at the GPU and the disk"
                    )
                continue
            heard_at = time.monotonic()
            message: dict[str, Any] = json.loads(pipe.recv_bytes())
            if message["run"] != run:
                self.close()
                raise TrainingFailed("the training process answered for another job")
            if "progress" not in message:
                return message
            on_progress(TrainingProgress.model_validate_json(json.dumps(message["progress"])))

    def _stop_training(self) -> None:
        """Ask the child to stop at its next step; end it if it does not answer in time."""
        pipe = self._pipe
        if pipe is None:
            return
        try:
            pipe.send_bytes(b"stop")
            while pipe.poll(_STOP_LIMIT_S):
                message = json.loads(pipe.recv_bytes())
                if "progress" not in message:
                    return
        except (EOFError, OSError):
            pass  # The child is gone, as intended.
        self.close()

    def _ensure_child(self) -> Connection:
        if self._pipe is not None and self._child.is_alive():
            return self._pipe
        self.close()
        try:
            self._pipe, self._child = self._start()
        except OSError as error:
            raise TrainingFailed(
                f"no training process could be started ({error.strerror}); free memory, "
                "processes or files"
            ) from error
        return self._pipe

    def _start(self) -> tuple[Connection, Any]:
        ours, theirs = self._context.Pipe()
        # The context is `spawn`: a forked child would inherit sockets, and locks that are taken.
        child = self._context.Process(
            target=self._target,
            args=(theirs, os.getpid()),
            name="modelserver-training",
            daemon=True,
        )
        try:
            child.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours, child

    def _reap(self) -> int | None:
        self._child.join(_STOP_LIMIT_S)
        code: int | None = self._child.exitcode
        self.close()
        return code

    def close(self) -> None:
        """End the child; without one, do nothing."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._child is not None:
            self._child.terminate()
            self._child.join(_STOP_LIMIT_S)
            if self._child.is_alive():
                self._child.kill()
                self._child.join()
            self._child.close()
            self._child = None
