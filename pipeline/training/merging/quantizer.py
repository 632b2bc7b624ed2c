"""llama.cpp's quantiser, run on a whole GGUF file in a process that ends with this one.

The operator chooses the build: no maintained package offers it as a function.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from pipeline.processes.server_process import dying_with_parent
from pipeline.weights.model_file import read_header
from schemas.errors import DiskFull, QuantizerFailed

_LOOK_S = 0.2
_TAIL_BYTES = 4096
_DISK_FULL_BYTES = 16 * 1024 * 1024


def require_quantizer(quantizer: Path | None) -> Path:
    """Return the quantiser's path; raises QuantizerFailed if it is not set or not there."""
    if quantizer is None or not quantizer.is_file():
        raise QuantizerFailed(
            "q4_k_m needs llama.cpp's llama-quantize; set MODELSERVER_HOST__QUANTIZER, or "
            "quantization to q8_0"
        )
    return quantizer


def quantize_file(path: Path, quantizer: Path, look: Callable[[], None]) -> None:
    """Replace a GGUF file by its Q4_K_M form.

    `look` is called several times a second; when it raises, the quantiser is killed. Raises
    QuantizerFailed with the quantiser's last line of output, or DiskFull.
    """
    target = path.with_name(path.name + ".smaller")
    # Merged tensors are in Q8_0, and llama-quantize refuses quantised input without this flag.
    command = [str(quantizer), "--allow-requantize", str(path), str(target), "Q4_K_M"]
    threads = str(len(os.sched_getaffinity(0)))
    with TemporaryFile() as output:
        code = _run([*command, threads], output, look)
        if code or not target.is_file():
            _raise_failure(path.parent, code, _last_line(output))
    _require_same_tensors(path, target)
    target.replace(path)


def _run(command: list[str], output: IO[bytes], look: Callable[[], None]) -> int:
    with subprocess.Popen(
        dying_with_parent(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            while True:
                look()
                try:
                    return process.wait(_LOOK_S)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.kill()
            raise


def _raise_failure(folder: Path, code: int, line: str) -> None:
    # llama-quantize does not report a full disk as such, so the free space decides.
    if shutil.disk_usage(folder).free < _DISK_FULL_BYTES:
        raise DiskFull
    raise QuantizerFailed(
        f"llama-quantize ended with exit code {code}: {line}; see its log, or use q8_0"
    )


def _last_line(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _require_same_tensors(source: Path, target: Path) -> None:
    shapes = [{t.name: t.shape for t in read_header(path).tensors} for path in (source, target)]
    if shapes[0] != shapes[1]:
        raise QuantizerFailed("llama-quantize left other tensors than it was given; use q8_0")
