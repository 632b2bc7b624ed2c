"""The header of a merged file: a copy of the base's, with new tensor types and places.

The gguf package could write it, but would first read every word of the tokenizer as an object.
With Gemma's 262,144 words that takes nine seconds; copying bytes takes none.
"""

import struct
from typing import BinaryIO, Final

from pipeline.weights.gguf_file import Pair, Weights
from pipeline.weights.merged_layout import FILE_TYPE, LEFT_OUT, MergedLayout

MOSTLY_Q8_0: Final = 7
"""The value of `general.file_type` (llama_ftype)."""
_UINT32: Final = 4


def header_bytes(base: Weights, file: BinaryIO, layout: MergedLayout) -> bytes:
    """Build the merged file's header, padded up to where its tensor data begin.

    `base` is the base's header and `file` its open file. Chat templates are left out. The file
    type becomes that of Q8_0 if most of the weights are in it.
    """
    kept = [pair for pair in base.pairs if not pair.key.startswith(LEFT_OUT)]
    parts = [b"GGUF", struct.pack("<IQQ", base.version, len(layout.tensors), len(kept))]
    parts += [_pair(file, pair, layout) for pair in kept]
    placed = {tensor.name: tensor for tensor in layout.tensors}
    for name in layout.names:
        tensor, encoded = placed[name], name.encode()
        rank = len(tensor.shape)
        parts.append(struct.pack("<Q", len(encoded)) + encoded)
        parts.append(struct.pack(f"<I{rank}Q", rank, *tensor.shape))
        parts.append(struct.pack("<IQ", tensor.type, tensor.offset))
    return b"".join(parts).ljust(layout.data_at, b"\0")


def _pair(file: BinaryIO, pair: Pair, layout: MergedLayout) -> bytes:
    """Return a metadata pair's bytes: key, type and value."""
    file.seek(pair.start)
    content = file.read(pair.end - pair.start)
    head, kind, value = content[:-8], content[-8:-4], content[-4:]
    if pair.key == FILE_TYPE and layout.is_mostly_q8_0 and kind == struct.pack("<I", _UINT32):
        value = struct.pack("<I", MOSTLY_Q8_0)
        return head + kind + value
    return content
