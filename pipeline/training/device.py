"""The device that training computes on, the floating type it is fast in, out-of-memory errors."""

import os
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")
# PyTorch's own variable: with "avx2" or "default" its kernels use no AVX-512.
_CAPABILITY = "ATEN_CPU_CAPABILITY"


def choose_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(device: torch.device, flags: frozenset[str] | None = None) -> torch.dtype:
    """Return bf16 if the device has instructions that multiply in it, else fp32.

    On a CPU without AVX512-BF16 or AMX, bf16 is over fifty times slower than fp32. `flags` are
    the CPU's, read from /proc/cpuinfo unless given.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if os.environ.get(_CAPABILITY, "").lower() in ("avx2", "default"):
        return torch.float32
    known = cpu_flags() if flags is None else flags
    return torch.bfloat16 if known & {"avx512_bf16", "amx_bf16"} else torch.float32


def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as Linux lists them; empty if they are unknown."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out.

    PyTorch's CPU allocator raises a plain RuntimeError, which only its text tells from others.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
