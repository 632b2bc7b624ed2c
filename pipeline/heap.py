"""The process's heap: what a job has freed goes back to the system."""

import ctypes
import gc


def give_memory_back() -> None:
    """Collect garbage and return free pages; glibc would keep them (malloc_trim(3))."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
