"""The recipe: how an adapter is trained, to be read from top to bottom.

Tokenize, pack, LoRA on all linear layers, AdamW, warm-up and cosine, checkpoints, resume, cancel.
What makes it fast: no padding is computed, an elder's system prompt once a row, and the language
model's head on answer tokens alone. The gradient is that of the plain loop.

Sources: LoRA (Hu et al. 2021); AdamW (Loshchilov & Hutter 2019); small data wants all layers and
a learning rate about ten times that of full fine-tuning (Schulman et al. 2025).
"""

import hashlib
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from pipeline.storage.files import check_file, hash_file
from pipeline.text.rewording import reword
from pipeline.training import checkpoint
from pipeline.training.base_model import BaseModelCache, LoadedBase
from pipeline.training.export import export_gguf, save_peft
from pipeline.training.tokens import Example, Row, group_rows, pack, read_examples
from schemas.errors import JobCancelled, TrainingFailed, TrainingOutOfMemory
from schemas.training import (
    ADAPTER_FOLDER,
    TrainingOutcome,
    TrainingParameters,
    TrainingProgress,
    TrainingSpec,
)

# The mask of a row is dense: beyond this many tokens it costs more than it saves.
ROW_TOKENS = 1536
WARM_UP = 0.06
FINAL_RATE = 0.1
GRADIENT_NORM = 1.0
CHECKPOINT_EVERY_S = 60.0
_RECENT_STEPS = 16

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

    Raises JobCancelled when `should_stop` says so, after a checkpoint; ArtefactCorrupt for a
    changed data set; TrainingOutOfMemory; DiskUnavailable.
    """
    on_progress(_progress("preparing", 0, 0, 0, spec.parameters))
    check_file(spec.dataset_path, spec.dataset_sha256)
    base = cache.load(spec.base)
    parameters = spec.parameters
    other = parameters.epochs // 2 if parameters.rewordings else 0
    examples = read_examples(
        spec.dataset_path,
        base.form,
        base.encode,
        base.bos,
        parameters.max_seq_length,
        lambda question, answer: reword(question, answer, other, parameters.seed),
    )
    with base.lend(spec.parameters.lora, spec.parameters.seed) as model:
        run = Run(spec, base, model, examples, clock)
        run.resume()
        run.run(on_progress, should_stop)
        on_progress(_progress("converting", run.step, run.total_steps, run.step, spec.parameters))
        return run.export()


class Run:
    """One training run: the loop and what it holds."""

    def __init__(
        self,
        spec: TrainingSpec,
        base: LoadedBase,
        model: PeftModel,
        examples: Sequence[Sequence[Example]],
        clock: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._parameters = spec.parameters
        self._base = base
        self._model = model
        self._examples = examples
        self._clock = clock
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, lr=0.0, weight_decay=0.0)
        self._batch_size = spec.parameters.batch_size * spec.parameters.gradient_accumulation_steps
        self._steps_an_epoch = math.ceil(len(examples) / self._batch_size)
        self.total_steps = self._steps_an_epoch * spec.parameters.epochs
        self._micro_batch = spec.parameters.batch_size
        self._identity = identity_of(spec)
        self.step = 0
        self.loss = 0.0
        self._resumed_from = 0
        self._tokens = 0
        self._seconds = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._saved_at = clock()

    def resume(self) -> None:
        """Go on from the furthest checkpoint of this run, if there is one."""
        folders = (self._spec.work_dir, *self._spec.resume_from)
        found = checkpoint.load_newest(folders, self._identity, self._spec.work_dir)
        if found is None:
            return
        position, tensors = found
        adapter = {
            name.removeprefix("adapter."): value
            for name, value in tensors.items()
            if name.startswith("adapter.")
        }
        set_peft_model_state_dict(self._model, adapter)
        checkpoint.restore_optimizer(self._optimizer, tensors)
        torch.set_rng_state(tensors["rng"])
        self.step = self._resumed_from = position.step
        self.loss = position.loss

    def run(self, on_progress: OnProgress, should_stop: Callable[[], bool]) -> None:
        """Train to the end."""
        self._model.train()
        on_progress(self._measured())
        while self.step < self.total_steps:
            if should_stop():
                self._save()
                raise JobCancelled
            begun = self._clock()
            self._take_step(self._batch(self.step))
            self._recent.append(self._clock() - begun)
            self._seconds += self._recent[-1]
            self.step += 1
            on_progress(self._measured())
            if self._is_due():
                self._save()

    def export(self) -> TrainingOutcome:
        """Write the adapter as peft safetensors and as GGUF."""
        folder = self._spec.work_dir / ADAPTER_FOLDER
        sha256 = save_peft(self._model, folder)
        gguf = export_gguf(folder, self._base.model.config)
        return TrainingOutcome(
            adapter_path=folder,
            adapter_sha256=sha256,
            gguf_path=gguf,
            gguf_sha256=hash_file(gguf),
            total_steps=self.total_steps,
            resumed_from_step=self._resumed_from,
            final_loss=self.loss,
            train_seconds=self._seconds,
            trained_tokens=self._tokens,
            tokens_per_second=self._tokens / self._seconds if self._seconds else 0.0,
            gpu_peak_bytes=(
                torch.cuda.max_memory_allocated() if self._base.device.type == "cuda" else 0
            ),
        )

    # One step ---------------------------------------------------------------------------------

    def _take_step(self, batch: Sequence[Example]) -> None:
        """One optimizer step over a batch; too little memory halves what goes in at once."""
        while True:
            try:
                self.loss = self._accumulate(batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._optimizer.zero_grad(set_to_none=True)
                if self._micro_batch == 1:
                    raise TrainingOutOfMemory from error
                self._micro_batch = max(1, self._micro_batch // 2)
                if self._base.device.type == "cuda":
                    torch.cuda.empty_cache()
        if not math.isfinite(self.loss):
            # Nothing good comes of it any more, and it cannot be said in JSON.
            raise TrainingFailed("the training diverged; use a lower learning_rate")
        torch.nn.utils.clip_grad_norm_(self._weights, GRADIENT_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = self._parameters.learning_rate * rate(self.step, self.total_steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._tokens += sum(example.length for example in batch)

    def _accumulate(self, batch: Sequence[Example]) -> float:
        """Add up the gradients of a batch; the loss is the mean over its answer tokens."""
        answer_tokens = sum(len(example.answer) for example in batch)
        total = 0.0
        for row in self._rows(batch):
            loss = row_loss(self._model, row) / answer_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def _rows(self, batch: Sequence[Example]) -> Iterator[Row]:
        for start in range(0, len(batch), self._micro_batch):
            for group in group_rows(batch[start : start + self._micro_batch], ROW_TOKENS):
                yield pack(group, self._base.device)

    def _batch(self, step: int) -> list[Example]:
        """The examples of a step, known from seed and step alone: resuming needs no more."""
        epoch, place = divmod(step, self._steps_an_epoch)
        order = list(range(len(self._examples)))
        random.Random(f"{self._parameters.seed}/{epoch}").shuffle(order)
        chosen = order[place * self._batch_size : (place + 1) * self._batch_size]
        return [self._wording(self._examples[i], epoch) for i in chosen]

    def _wording(self, forms: Sequence[Example], epoch: int) -> Example:
        """As taught in every even epoch and in the last two; in the others another wording."""
        if epoch % 2 == 0 or epoch >= self._parameters.epochs - 2 or len(forms) == 1:
            return forms[0]
        return forms[1 + (epoch // 2) % (len(forms) - 1)]

    # Progress and checkpoints -------------------------------------------------------------------

    def _measured(self) -> TrainingProgress:
        remaining = self.total_steps - self.step
        eta = statistics.median(self._recent) * remaining if self._recent else None
        done = _progress(
            "training",
            self.step,
            self.total_steps,
            min(self.step // self._steps_an_epoch + 1, self._parameters.epochs),
            self._parameters,
        )
        return done.model_copy(
            update={
                "loss": self.loss if self.step else None,
                "eta_seconds": eta,
                "tokens_per_second": self._tokens / self._seconds if self._seconds else None,
            }
        )

    def _is_due(self) -> bool:
        if self.step == self.total_steps:
            return True
        return self._clock() - self._saved_at >= CHECKPOINT_EVERY_S

    def _save(self) -> None:
        adapter = get_peft_model_state_dict(self._model)
        tensors: dict[str, Tensor] = {f"adapter.{k}": v for k, v in adapter.items()}
        tensors |= checkpoint.optimizer_tensors(self._optimizer)
        tensors["rng"] = torch.get_rng_state()
        position = checkpoint.Position(identity=self._identity, step=self.step, loss=self.loss)
        checkpoint.save(self._spec.work_dir, position, tensors)
        self._saved_at = self._clock()


def row_loss(model: Any, row: Row) -> Tensor:
    """The summed cross entropy of a row's answer tokens.

    The head is applied to the positions that predict an answer token and to no others:
    with a vocabulary of 262,144 it is most of a small model's work.
    """
    logits = model(
        input_ids=row.ids,
        position_ids=row.positions,
        attention_mask=attention_masks(model.config, row),
        use_cache=False,
        logits_to_keep=row.predictors,
    ).logits[0]
    return F.cross_entropy(logits.float(), row.targets, reduction="sum")


def attention_masks(config: Any, row: Row) -> Tensor | dict[str, Tensor]:
    """A row's mask [1, 1, T, T], or one a kind of layer where a base has several (Gemma 3).

    In a sliding layer a token sees only the last `sliding_window` positions of its own example.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return row.allowed
    distance = row.positions[0][:, None] - row.positions[0][None, :]
    near = row.allowed & (
        distance < (getattr(config, "sliding_window", None) or distance.max() + 1)
    )
    return {kind: near if kind == "sliding_attention" else row.allowed for kind in kinds}


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out; the processor's allocator has no error type of its own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def rate(step: int, total_steps: int) -> float:
    """The learning rate's share at a step: linear warm-up, then a cosine down to a tenth."""
    warm_up = max(1, round(WARM_UP * total_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, total_steps - warm_up)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def identity_of(spec: TrainingSpec) -> str:
    """What a checkpoint belongs to: this elder's job, this data set, base and parameters."""
    of_whom = f"{spec.elder_id}\0{spec.job_id}"
    made_of = f"{spec.dataset_sha256}\0{spec.base.key}\0{spec.parameters.model_dump_json()}"
    text = f"{of_whom}\0{made_of}"
    return hashlib.sha256(text.encode()).hexdigest()


def _progress(
    stage: Any, step: int, total_steps: int, epoch: int, parameters: TrainingParameters
) -> TrainingProgress:
    return TrainingProgress(
        stage=stage,
        step=step,
        total_steps=total_steps,
        epoch=min(epoch, parameters.epochs),
        total_epochs=parameters.epochs,
    )
