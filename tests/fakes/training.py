"""A training runner without a model: it writes small artefacts that its input decides."""

from collections.abc import Callable
from pathlib import Path

from pipeline.jobs.training_process import OnProgress
from pipeline.storage.files import hash_file, write_file
from pipeline.storage.folders import seal_folder
from schemas.errors import ArtefactCorrupt
from schemas.hosting import (
    MERGED_FOLDER,
    MERGED_GGUF,
    MergeOutcome,
    MergeSpec,
)
from schemas.training import (
    ADAPTER_CONFIG,
    ADAPTER_FOLDER,
    ADAPTER_GGUF,
    ADAPTER_WEIGHTS,
    TrainingOutcome,
    TrainingProgress,
    TrainingSpec,
)


class FakeTrainingRunner:
    """Writes a small sealed adapter or merged file; each queued failure replaces one result."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.specs: list[TrainingSpec] = []
        self.merges: list[MergeSpec] = []
        self.merge_failures: list[Exception] = []
        """The errors that the next merges raise, one each."""
        self.damages: list[Callable[[Path], None]] = []
        """Each is called once, with the folder of the next adapter after it is written."""

    def run(
        self, spec: TrainingSpec, on_progress: OnProgress, check: Callable[[], None]
    ) -> TrainingOutcome:
        """Report three steps and write an adapter that data set and seed decide."""
        self.specs.append(spec)
        for step in range(1, 4):
            check()
            on_progress(
                TrainingProgress(
                    stage="training",
                    step=step,
                    total_steps=3,
                    epoch=step,
                    total_epochs=3,
                    loss=1.0 / step,
                    eta_seconds=3.0 - step,
                )
            )
        if self.failures:
            raise self.failures.pop(0)
        return self._write_adapter(spec)

    def merge(
        self, spec: MergeSpec, on_progress: OnProgress, check: Callable[[], None]
    ) -> MergeOutcome:
        """Report two steps and write a sealed file that base and adapter decide.

        Raises ArtefactCorrupt where either is missing or has another hash than the specification.
        """
        self.merges.append(spec)
        for path, sha256 in (
            (spec.base_gguf, spec.base_sha256),
            (spec.adapter_gguf, spec.adapter_sha256),
        ):
            if not path.is_file() or sha256 not in (None, hash_file(path)):
                raise ArtefactCorrupt(f"{path.name} is missing or was changed")
        for step in range(1, 3):
            check()
            on_progress(
                TrainingProgress(
                    stage="converting", step=step, total_steps=2, epoch=0, total_epochs=0
                )
            )
        if self.merge_failures:
            raise self.merge_failures.pop(0)
        return self._write_merged(spec)

    def _write_merged(self, spec: MergeSpec) -> MergeOutcome:
        content = f"{hash_file(spec.base_gguf)} with {spec.adapter_sha256}".encode()
        folder = spec.work_dir / MERGED_FOLDER
        sha256 = write_file(folder / MERGED_GGUF, content)
        seal_folder(folder, {MERGED_GGUF: sha256})
        return MergeOutcome(
            path=folder / MERGED_GGUF,
            sha256=sha256,
            size_bytes=len(content),
            touched_tensors=1,
            tensors=2,
            merge_seconds=0.1,
        )

    def _write_adapter(self, spec: TrainingSpec) -> TrainingOutcome:
        content = f"adapter of {spec.dataset_sha256} {spec.parameters.seed}".encode()
        folder = spec.work_dir / ADAPTER_FOLDER
        names = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, ADAPTER_GGUF)
        hashes = {name: write_file(folder / name, content + name.encode()) for name in names}
        seal_folder(folder, hashes)
        if self.damages:
            self.damages.pop(0)(folder)
        return TrainingOutcome(
            adapter_path=folder,
            adapter_sha256=hashes[ADAPTER_WEIGHTS],
            gguf_path=folder / ADAPTER_GGUF,
            gguf_sha256=hashes[ADAPTER_GGUF],
            total_steps=3,
            resumed_from_step=0,
            final_loss=0.3,
            train_seconds=0.1,
            trained_tokens=100,
            tokens_per_second=1000.0,
        )
