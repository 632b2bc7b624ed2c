"""A fake training child: it sends messages as the real one does, and trains nothing."""

import hashlib
import json
import threading
from multiprocessing.connection import Connection

from pipeline.training.child import REQUEST
from schemas.errors import TrainingFailed
from schemas.hosting import MERGED_FOLDER, MERGED_GGUF, MergeOutcome, MergeSpec
from schemas.training import TrainingOutcome, TrainingProgress, TrainingSpec

STEPS = 5
# The elder whose job hangs, and the one whose job fails.
MUTE, BROKEN = "MUTE", "BROKEN"


def serve_in_play(pipe: Connection, parent: int) -> None:
    """Pause at each step, obey `stop` after it, and write no file."""
    while True:
        try:
            request = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        if request != b"stop":
            _play(pipe, REQUEST.validate_json(request))


def _play(pipe: Connection, spec: TrainingSpec | MergeSpec) -> None:
    run = f"{spec.job_id}/{spec.fence}"
    if spec.elder_id == MUTE:
        threading.Event().wait()
    if spec.elder_id == BROKEN:
        told = {"run": run, "code": TrainingFailed.code, "message": "CUDA error"}
        pipe.send_bytes(json.dumps(told).encode())
        return
    for step in range(1, STEPS + 1):
        progress = TrainingProgress(
            stage="converting" if isinstance(spec, MergeSpec) else "training",
            step=step,
            total_steps=STEPS,
            epoch=1,
            total_epochs=1,
        )
        pipe.send_bytes(_message(run, "progress", progress.model_dump_json()))
        if pipe.poll(0.05):
            pipe.recv_bytes()
            pipe.send_bytes(
                b'{"run": "%s", "code": "job_cancelled", "message": "stopped"}' % run.encode()
            )
            return
    outcome = _merged(spec) if isinstance(spec, MergeSpec) else _outcome(spec)
    pipe.send_bytes(_message(run, "outcome", outcome.model_dump_json()))


def _message(run: str, kind: str, body: str) -> bytes:
    return f'{{"run": "{run}", "{kind}": {body}}}'.encode()


def _outcome(spec: TrainingSpec) -> TrainingOutcome:
    sha256 = hashlib.sha256(spec.elder_id.encode()).hexdigest()
    return TrainingOutcome(
        adapter_path=spec.work_dir / "adapter",
        adapter_sha256=sha256,
        gguf_path=spec.work_dir / "adapter" / "adapter.gguf",
        gguf_sha256=sha256,
        total_steps=STEPS,
        resumed_from_step=0,
        final_loss=0.1,
        train_seconds=0.1,
        trained_tokens=1,
        tokens_per_second=10.0,
    )


def _merged(spec: MergeSpec) -> MergeOutcome:
    return MergeOutcome(
        path=spec.work_dir / MERGED_FOLDER / MERGED_GGUF,
        sha256=hashlib.sha256(spec.elder_id.encode()).hexdigest(),
        size_bytes=1,
        touched_tensors=1,
        tensors=1,
        merge_seconds=0.1,
    )
