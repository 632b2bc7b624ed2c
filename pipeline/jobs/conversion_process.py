"""Converting a base model for training in a child process, so that this one loads no torch."""

import json
import subprocess
import sys
from pathlib import Path

from pipeline.processes.server_process import dying_with_parent
from schemas.errors import ModelServerError, TrainingFailed, error_of

# Started by name: nothing outside pipeline.training may import it.
_CONVERTER = "pipeline.training.base_conversion"


def convert_base(gguf: Path, folder: Path) -> None:
    """Convert a GGUF file to the safetensors and tokenizer that training reads, in `folder`.

    Raises the converter's own ConfigurationError, FolderNotOurs or DiskUnavailable, and
    TrainingFailed if it ends without saying why.
    """
    command = [sys.executable, "-m", _CONVERTER, str(gguf), str(folder)]
    done = subprocess.run(
        dying_with_parent(command),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        raise _failure(done.returncode, done.stdout)


def _failure(exit_code: int, output: str) -> ModelServerError:
    try:
        reported = json.loads(output.splitlines()[-1])
        return error_of(reported["code"], reported["message"])
    except (IndexError, ValueError, KeyError, TypeError):
        return TrainingFailed(f"the conversion of the base model ended with exit code {exit_code}")
