"""llama.cpp's own quantiser: a whole GGUF file made smaller, in a process that ends with this one.

Which build it is, is the operator's choice; no package that is kept up to date has it as a
function.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from pipeline.processes.server_process import dying_with_parent
from pipeline.weights.merge_plan import read_header
from schemas.errors import DiskFull, QuantizerFailed

_LOOK_S = 0.2
_TAIL_BYTES = 4096
_NO_ROOM_BYTES = 16 * 1024 * 1024


def require_quantizer(quantizer: Path | None) -> Path:
    """Return the quantiser; raises QuantizerFailed where none is named or it is not there."""
    if quantizer is None or not quantizer.is_file():
        raise QuantizerFailed(
            "q4_k_m needs llama.cpp's llama-quantize; set MODELSERVER_HOST__QUANTIZER, or "
            "quantization to q8_0"
        )
    return quantizer


def quantize_file(path: Path, quantizer: Path, look: Callable[[], None]) -> None:
    """Replace a GGUF file by its Q4_K_M form.

    `look` is called several times a second and may raise: the quantiser is then killed. Raises
    QuantizerFailed with the quantiser's last line, DiskFull.
    """
    target = path.with_name(path.name + ".smaller")
    # Tensors that are quantised already are read and written again on purpose.
    command = [str(quantizer), "--allow-requantize", str(path), str(target), "Q4_K_M"]
    threads = str(len(os.sched_getaffinity(0)))
    with TemporaryFile() as said:
        code = _run([*command, threads], said, look)
        if code or not target.is_file():
            _refuse(path.parent, code, _last_line(said))
    _require_same_tensors(path, target)
    target.replace(path)


def _run(command: list[str], said: IO[bytes], look: Callable[[], None]) -> int:
    with subprocess.Popen(
        dying_with_parent(command), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
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


def _refuse(folder: Path, code: int, line: str) -> None:
    # It has no word for a full disk.
    if shutil.disk_usage(folder).free < _NO_ROOM_BYTES:
        raise DiskFull
    raise QuantizerFailed(
        f"llama-quantize ended with exit code {code}: {line}; see its log, or use q8_0"
    )


def _last_line(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _require_same_tensors(source: Path, target: Path) -> None:
    shapes = [{t.name: t.shape for t in read_header(path).tensors} for path in (source, target)]
    if shapes[0] != shapes[1]:
        raise QuantizerFailed("llama-quantize left other tensors than it was given; use q8_0")
