"""GGUF files that consist of little more than a header, and their upload."""

import hashlib
import struct

from pipeline.hosting.server.models.store import Store


def gguf_bytes(kind: str = "model", tensors: tuple[tuple[str, tuple[int, int]], ...] = ()) -> bytes:
    """Return a GGUF file: the header, which `create` reads, and zeros as tensors."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [("general.architecture", "llama"), ("general.type", kind)]
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    out += b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs)
    for name, shape in tensors:
        out += text(name) + struct.pack("<IQQIQ", 2, *shape, 0, 0)
    return out + bytes(1024)


BASE = gguf_bytes(tensors=(("blk.0.attn_q.weight", (8, 6)),))


ADAPTER = gguf_bytes(
    "adapter",
    (("blk.0.attn_q.weight.lora_a", (8, 2)), ("blk.0.attn_q.weight.lora_b", (2, 6))),
)


def put(store: Store, content: bytes) -> str:
    """Upload a blob and return its digest."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with store.upload(digest) as upload:
        upload.write(content[:5])
        upload.write(content[5:])
        upload.finish()
    return digest
