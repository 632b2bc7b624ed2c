"""The command that converts one base model in a process of its own.

    python -m pipeline.training.convert GGUF FOLDER

Other packages start it by name, since they must not load torch. Exit code 0 when FOLDER holds the
weights; 1 when it does not, with an error's code and message as one JSON object on the last line
of standard output.
"""

import json
import sys
from pathlib import Path

from pipeline.training.conversion import convert_gguf
from schemas.errors import ModelServerError


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
