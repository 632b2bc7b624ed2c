"""Convert one base model in a process of its own, for those who must not load torch.

    python -m pipeline.training.convert GGUF FOLDER

Exit code 0 when FOLDER holds the weights; 1 with one JSON object, an error's code and message, as
the last line of standard output.
"""

import json
import sys
from pathlib import Path

from pipeline.training.base_model import convert_gguf
from schemas.errors import ModelServerError


def main() -> int:
    """Convert what the arguments name."""
    gguf, folder = map(Path, sys.argv[1:])
    try:
        convert_gguf(gguf, folder)
    except ModelServerError as error:
        print(json.dumps({"code": error.code, "message": error.message}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
