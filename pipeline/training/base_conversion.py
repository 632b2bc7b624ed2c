"""Conversion of a base model's GGUF file into the safetensors and tokenizer that training loads.

The weights keep their values, so that a model is trained on exactly what Ollama serves.

    python -m pipeline.training.base_conversion GGUF FOLDER

Other packages start this by name, since they must not load torch. Exit code 0 when FOLDER holds
the weights; 1 when it does not, with an error's code and message as one JSON object on the last
line of standard output.
"""

import fcntl
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from pipeline.storage.disk_errors import disk_errors
from pipeline.storage.folders import folder_written_whole, remove_remains
from pipeline.storage.manifests import require_ours
from pipeline.weights.base_folder import CONFIG
from schemas.errors import ConfigurationError, ModelServerError

transformers_logging.disable_progress_bar()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert a GGUF file into a sealed `folder`, unless the folder has weights already.

    Safe when several processes do it at once: one converts, the others wait for it.

    Raises:
        ConfigurationError: there is neither a folder with weights nor a GGUF file.
        FolderNotOurs: `folder` holds anything else, which may be the GGUF file itself.
        DiskUnavailable: the disk is full or fails.
    """
    if not gguf.is_file():
        raise ConfigurationError(
            f"base model: found neither {folder} nor {gguf}; put the weights there or set "
            "MODELSERVER_MODEL_DIR"
        )
    if (folder / CONFIG).is_file():
        return
    require_ours(folder)
    with disk_errors():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / ".convert.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / CONFIG).is_file():
                return  # Another process converted it while this one waited for the lock.
            # A killed conversion may leave many gigabytes; under the lock nobody writes them.
            remove_remains(folder)
            with folder_written_whole(folder) as partial:
                _convert(gguf, partial)


def _convert(gguf: Path, folder: Path) -> None:
    source = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        dtype=torch.float32,
        # Without this the weights stay quantised, and a training step takes minutes.
        quantization_config=GgufConfig(dequantize=True),
        **source,
    )
    # The weights are plain F32 now; a loader must not take them for quantised ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def main() -> int:
    """Convert the GGUF file that the arguments name; return the exit code."""
    gguf, folder = map(Path, sys.argv[1:])
    try:
        convert_gguf(gguf, folder)
    except ModelServerError as error:
        print(json.dumps({"code": error.code, "message": error.message}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
