"""The recipe: how an adapter is trained. Read it from top to bottom.

Read the examples, put a LoRA on all linear layers, then repeat: pack a batch into rows, add up
its gradients, clip them, take an AdamW step. Checkpoints are written on the way, so that another
attempt can resume.

What makes it fast: no padding is computed, an elder's system prompt is computed once per row, and
the language model's head is applied to answer tokens alone. The gradient equals that of the plain
loop.

Sources: LoRA (Hu et al. 2021); AdamW (Loshchilov & Hutter 2019); on small data, LoRA on all layers
and a learning rate about ten times that of full fine-tuning (Schulman et al. 2025).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from peft import PeftModel

from pipeline.storage.files import check_file, hash_file
from pipeline.text.rewording import reword
from pipeline.training import checkpoint
from pipeline.training.adapter_export import export_gguf, save_peft
from pipeline.training.base_model import BaseModelCache, LoadedBase
from pipeline.training.device import is_out_of_memory
from pipeline.training.loss import row_loss
from pipeline.training.meter import StepMeter
from pipeline.training.packing import Row, group_rows, pack
from pipeline.training.schedule import Schedule, rewording_count
from pipeline.training.state import restore_state, state_tensors
from pipeline.training.tokens import Example, read_examples
from schemas.errors import JobCancelled, TrainingFailed, TrainingOutOfMemory
from schemas.training import (
    ADAPTER_FOLDER,
    TrainingOutcome,
    TrainingProgress,
    TrainingSpec,
)

# The mask of a row is dense and grows with its square: longer rows cost more than they save.
ROW_TOKENS = 1536
# Gradients with a larger global L2 norm are scaled down to it.
GRADIENT_NORM = 1.0
CHECKPOINT_EVERY_S = 60.0

OnProgress = Callable[[TrainingProgress], None]


def train(
    spec: TrainingSpec,
    cache: BaseModelCache,
    *,
    on_progress: OnProgress,
    should_stop: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> TrainingOutcome:
    """Train one adapter and write it below `spec.work_dir`.

    `should_stop` is asked before every step. `clock` returns seconds.

    Raises:
        JobCancelled: `should_stop` returned true; a checkpoint was written.
        ArtefactCorrupt: the data set has changed since the job was accepted.
        ExampleTooLong: an example exceeds `max_seq_length`.
        TrainingOutOfMemory: not even one example fits into memory.
        TrainingFailed: the loss is no longer a finite number.
        DiskUnavailable: the disk is full or fails.
    """
    epochs = spec.parameters.epochs
    on_progress(
        TrainingProgress(stage="preparing", step=0, total_steps=0, epoch=0, total_epochs=epochs)
    )
    check_file(spec.dataset_path, spec.dataset_sha256)
    base = cache.load(spec.base)
    examples = _read_examples(spec, base)
    with base.lend(spec.parameters.lora, spec.parameters.seed) as model:
        run = Run(spec, base, model, examples, clock)
        run.resume()
        model.train()
        on_progress(run.progress())
        while run.step < run.total_steps:
            if should_stop():
                run.save_checkpoint()
                raise JobCancelled
            run.take_step()
            on_progress(run.progress())
            if run.is_checkpoint_due():
                run.save_checkpoint()
        on_progress(
            TrainingProgress(
                stage="converting",
                step=run.step,
                total_steps=run.total_steps,
                epoch=epochs,
                total_epochs=epochs,
            )
        )
        return run.export()


def _read_examples(spec: TrainingSpec, base: LoadedBase) -> list[list[Example]]:
    parameters = spec.parameters
    count = rewording_count(parameters)
    return read_examples(
        spec.dataset_path,
        base.form,
        base.encode,
        base.bos,
        parameters.max_seq_length,
        lambda question, answer: reword(question, answer, count, parameters.seed),
    )


class Run:
    """One training run: the adapter, its optimizer, and how far they are."""

    def __init__(
        self,
        spec: TrainingSpec,
        base: LoadedBase,
        model: PeftModel,
        examples: Sequence[Sequence[Example]],
        clock: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._base = base
        self._model = model
        self._examples = examples
        self._clock = clock
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, lr=0.0, weight_decay=0.0)
        self._schedule = Schedule(spec.parameters, len(examples))
        self._micro_batch_size = spec.parameters.batch_size
        self._identity = checkpoint.identity_of(spec)
        self.total_steps = self._schedule.total_steps
        self.step = 0
        self._loss = 0.0
        self._resumed_from = 0
        self._meter = StepMeter()
        self._saved_at_s = clock()

    # One step ---------------------------------------------------------------------------------

    def take_step(self) -> None:
        """Take one optimizer step on the batch that the schedule names."""
        begun_s = self._clock()
        batch = self._schedule.batch_of(self.step, self._examples)
        self._loss = self._backpropagate(batch)
        if not math.isfinite(self._loss):
            # No later step would repair the weights, and JSON cannot express this loss.
            raise TrainingFailed("the training diverged; use a lower learning_rate")
        torch.nn.utils.clip_grad_norm_(self._weights, GRADIENT_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.learning_rate(self.step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._meter.record(sum(example.length for example in batch), self._clock() - begun_s)
        self.step += 1

    def _backpropagate(self, batch: Sequence[Example]) -> float:
        """Add up the gradients of a batch; when memory runs out, halve the micro-batch and retry.

        The gradient is the same for every size of micro-batch, but for rounding.
        """
        while True:
            try:
                return self._accumulate(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._optimizer.zero_grad(set_to_none=True)
                if self._micro_batch_size == 1:
                    raise TrainingOutOfMemory from error
                self._micro_batch_size = max(1, self._micro_batch_size // 2)
                if self._base.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _accumulate(self, batch: Sequence[Example]) -> float:
        """Add up the gradients of a batch's rows; return the batch's loss.

        It is the mean cross entropy, in nats, over all answer tokens of the batch.
        """
        answer_tokens = sum(len(example.answer) for example in batch)
        total = 0.0
        for row in self._rows(batch):
            loss = row_loss(self._model, row) / answer_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def _rows(self, batch: Sequence[Example]) -> Iterator[Row]:
        for start in range(0, len(batch), self._micro_batch_size):
            for group in group_rows(batch[start : start + self._micro_batch_size], ROW_TOKENS):
                yield pack(group, self._base.device)

    # Checkpoints --------------------------------------------------------------------------------

    def resume(self) -> None:
        """Continue from the furthest checkpoint of this run, if there is one."""
        folders = (self._spec.work_dir, *self._spec.resume_from)
        found = checkpoint.load_newest(folders, self._identity, self._spec.work_dir)
        if found is None:
            return
        position, tensors = found
        restore_state(self._model, self._optimizer, tensors)
        self.step = self._resumed_from = position.step
        self._loss = position.loss

    def is_checkpoint_due(self) -> bool:
        """Say whether the run has ended or its last checkpoint is old."""
        if self.step == self.total_steps:
            return True
        return self._clock() - self._saved_at_s >= CHECKPOINT_EVERY_S

    def save_checkpoint(self) -> None:
        """Write a checkpoint into this attempt's folder."""
        position = checkpoint.Position(identity=self._identity, step=self.step, loss=self._loss)
        tensors = state_tensors(self._model, self._optimizer)
        checkpoint.save(self._spec.work_dir, position, tensors)
        self._saved_at_s = self._clock()

    # Reports and results ------------------------------------------------------------------------

    def progress(self) -> TrainingProgress:
        """Report the step reached, its loss, the throughput and the estimated time left."""
        epochs = self._spec.parameters.epochs
        return TrainingProgress(
            stage="training",
            step=self.step,
            total_steps=self.total_steps,
            epoch=min(self._schedule.epoch_of(self.step) + 1, epochs),
            total_epochs=epochs,
            loss=self._loss if self.step else None,
            tokens_per_second=self._meter.tokens_per_second,
            eta_seconds=self._meter.eta_s(self.total_steps - self.step),
        )

    def export(self) -> TrainingOutcome:
        """Write the adapter as peft safetensors and as GGUF."""
        folder = self._spec.work_dir / ADAPTER_FOLDER
        sha256 = save_peft(self._model, folder)
        gguf = export_gguf(folder, self._base.model.config)
        is_cuda = self._base.device.type == "cuda"
        return TrainingOutcome(
            adapter_path=folder,
            adapter_sha256=sha256,
            gguf_path=gguf,
            gguf_sha256=hash_file(gguf),
            total_steps=self.total_steps,
            resumed_from_step=self._resumed_from,
            final_loss=self._loss,
            train_seconds=self._meter.seconds,
            trained_tokens=self._meter.tokens,
            tokens_per_second=self._meter.tokens_per_second or 0.0,
            gpu_peak_bytes=torch.cuda.max_memory_allocated() if is_cuda else 0,
        )
