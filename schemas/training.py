"""What crosses the boundary between the training worker and its child process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.base import Frozen
from schemas.identifiers import ElderId, Fence, JobId, Sha256

ChatFormatName = Literal["chatml", "gemma", "llama3"]
Quantization = Literal["q4_k_m", "q8_0"]
# Names of the folder and the files that an attempt leaves, below its own folder.
ADAPTER_FOLDER = "adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_GGUF = "adapter.gguf"


class LoraParameters(Frozen):
    """The adapter's shape. Effective scale is `alpha / rank` (Hu et al. 2021)."""

    rank: Annotated[int, Field(ge=1, le=256)] = 16
    """The rank of the adapter's matrices."""
    alpha: Annotated[int, Field(ge=1, le=512)] = 32
    """The adapter's weight: its scale is `alpha / rank`."""
    dropout: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """The share of the adapter's inputs that each step sets to zero at random."""


class TrainingParameters(Frozen):
    """The parameters of one training run. The same bounds apply to a request's `overrides`."""

    epochs: Annotated[int, Field(ge=1, le=100)] = 3
    """How many times training goes through the data set."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 4
    """How many examples are in memory at once; it is halved when memory runs out."""
    learning_rate: Annotated[float, Field(gt=0, le=1e-2)] = 5e-5
    """The highest learning rate of the schedule."""
    max_seq_length: Annotated[int, Field(ge=64, le=32768)] = 512
    """The longest example, in tokens."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=256)] = 1
    """How many batches make one step."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 20260101
    """The seed of everything random in a run."""
    rewordings: bool = True
    """Train on other wordings of each question too; answers are never changed."""
    lora: LoraParameters = LoraParameters()
    """The adapter's shape."""

    def overlaid(self, over: Mapping[str, Any]) -> "TrainingParameters":
        """Return a copy with other values; raises pydantic's ValidationError when out of bounds."""
        merged = self.model_dump() | dict(over)
        lora = over.get("lora", {})
        merged["lora"] = self.lora.model_dump() | lora if isinstance(lora, dict) else lora
        return TrainingParameters.model_validate(merged)


class BaseModelSpec(Frozen):
    """A base model as configured: weights to train on, weights to serve, and its chat format."""

    key: str
    name: str
    hf_path: Path
    gguf_path: Path
    description: str = ""
    chat_format: ChatFormatName
    terms: str | None = None
    terms_url: str | None = None


class TrainingSpec(Frozen):
    """One attempt at one job, as the worker hands it to the child process.

    Only this fence writes to `work_dir`. Checkpoints of earlier attempts are read from
    `resume_from`, newest first, and never written.
    """

    job_id: JobId
    elder_id: ElderId
    fence: Fence
    base: BaseModelSpec
    parameters: TrainingParameters
    dataset_path: Path
    dataset_sha256: Sha256
    work_dir: Path
    resume_from: tuple[Path, ...] = ()

    @property
    def attempt(self) -> str:
        """`<job>/<fence>`; every message of the child names the attempt that it is about."""
        return f"{self.job_id}/{self.fence}"


class TrainingProgress(Frozen):
    """How far a run is, and how fast."""

    stage: Literal["preparing", "training", "converting"]
    step: int
    total_steps: int
    epoch: int
    total_epochs: int
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


class TrainingOutcome(Frozen):
    """What a finished run leaves on the disk, with the hashes to verify it."""

    adapter_path: Path
    """The sealed peft folder: weights, configuration, GGUF, and a manifest of their hashes."""
    adapter_sha256: Sha256
    """The hash of `adapter_model.safetensors`."""
    gguf_path: Path
    gguf_sha256: Sha256
    total_steps: int
    resumed_from_step: int
    final_loss: float
    train_seconds: float
    trained_tokens: int
    tokens_per_second: float
    gpu_peak_bytes: int = 0

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes that the folder's manifest must hold, by file name."""
        return {ADAPTER_WEIGHTS: self.adapter_sha256, ADAPTER_GGUF: self.gguf_sha256}
