"""How a version is served: the kinds of host, the forms of a persona, a merge's input and output.

A form is what a host gets: the base with an adapter beside it (`adapter`, `shared`), one file
with both (`merged`), or the base alone (`plain`). Only the adapter is stored; forms are made from
it.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Frozen
from schemas.identifiers import ElderId, Fence, JobId, Sha256
from schemas.training import Quantization

HostKind = Literal["ollama", "llama-server"]
Form = Literal["adapter", "merged", "shared", "plain"]
# Below an attempt's folder.
MERGED_FOLDER = "merged"
MERGED_GGUF = "merged.gguf"


class HostDescription(Frozen):
    """What a host reports of itself; `forms` are those it can serve, the preferred one first."""

    kind: HostKind
    version: str
    forms: tuple[Form, ...]


class MergeSpec(Frozen):
    """One base and one adapter, to become one GGUF file below `work_dir`.

    `adapter_gguf` is a GGUF LoRA of the same base. `base_sha256` is checked if given. `quantizer`
    is llama.cpp's `llama-quantize`, for quantizations that need it.
    """

    job_id: JobId
    elder_id: ElderId
    fence: Fence
    base_gguf: Path
    base_sha256: Sha256 | None = None
    adapter_gguf: Path
    adapter_sha256: Sha256
    """The hash of `adapter_gguf`."""
    quantization: Quantization
    quantizer: Path | None = None
    work_dir: Path

    @property
    def attempt(self) -> str:
        """`<job>/<fence>`, as `TrainingSpec.attempt`."""
        return f"{self.job_id}/{self.fence}"


class MergeOutcome(Frozen):
    """What a merge leaves on the disk: a sealed folder with one file."""

    path: Path
    sha256: Sha256
    """The file's hash, which the sealed folder's manifest holds too."""
    size_bytes: Annotated[int, Field(gt=0)]
    touched_tensors: int
    """How many of the base's tensors the adapter changed."""
    tensors: int
    merge_seconds: float

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes that the folder's manifest must hold, by file name."""
        return {self.path.name: self.sha256}
