"""Converting a base model for training, from a process that loads no torch."""

import json
import subprocess
import sys
from pathlib import Path

from pipeline.processes.server_process import dying_with_parent
from schemas.errors import ModelServerError, TrainingFailed, error_of

# Started by name, as the training process is.
_CONVERTER = "pipeline.training.convert"


def convert_base(gguf: Path, folder: Path) -> None:
    """Unpack a GGUF file into the safetensors and the tokenizer that training reads, once.

    Raises ConfigurationError, FolderNotOurs, DiskUnavailable, and TrainingFailed where the
    converter itself ends.
    """
    command = [sys.executable, "-m", _CONVERTER, str(gguf), str(folder)]
    done = subprocess.run(
        dying_with_parent(command), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise _failure(done.returncode, done.stdout)


def _failure(exit_code: int, output: str) -> ModelServerError:
    try:
        told = json.loads(output.splitlines()[-1])
        return error_of(told["code"], told["message"])
    except (IndexError, ValueError, KeyError, TypeError):
        return TrainingFailed(f"the conversion of the base model ended with exit code {exit_code}")
