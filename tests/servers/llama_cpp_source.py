"""Where llama.cpp's own converter lies, if it was fetched; nothing of it is kept here."""

import os
from pathlib import Path

_VERSION = "11434"
_CONVERTER = "convert_lora_to_gguf.py"
HINT = "llama.cpp's sources are not there; run `make hosts`, or name them in LLAMA_CPP_SOURCE"


def converter_path() -> Path | None:
    """Return llama.cpp's `convert_lora_to_gguf.py`, or None.

    Looked for in the folder that LLAMA_CPP_SOURCE names, else in the cache of the real hosts.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = cache / "heirloom-modelserver" / "tools" / "hosts" / f"llama.cpp-{_VERSION}"
    path = Path(os.environ.get("LLAMA_CPP_SOURCE") or kept) / _CONVERTER
    return path if path.is_file() else None
