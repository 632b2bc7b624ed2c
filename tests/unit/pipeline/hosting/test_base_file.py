"""A base's file is uploaded without its chat template and otherwise unchanged."""

import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest

from pipeline.hosting.base_file import BaseFile

NAME = "tokenizer.chat_template"
TEMPLATE = "{% if tools %}tokenizer.chat_template{% endif %}"
BLOCK_BYTES = 1024 * 1024


def write(
    path: Path,
    *templates: str,
    padding: int = 1,
    endianess: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> Path:
    """Write a small file with these keys, after a text of so many bytes."""
    writer = gguf.GGUFWriter(path, "llama", endianess=endianess)
    writer.add_string("general.description", "x" * padding)
    for key in templates:
        writer.add_string(key, TEMPLATE)
    writer.add_string("general.name", NAME)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sent(path: Path) -> bytes:
    """What is sent of a file; its hash and size are those that were told."""
    base = BaseFile(path)
    content = b"".join(base.blocks())
    assert base.sha256() == hashlib.sha256(content).hexdigest()
    assert base.size_bytes == len(content) == path.stat().st_size
    return content


def fields(path: Path) -> dict[str, object]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("templates", [(NAME,), (NAME, f"{NAME}.tool_use", f"{NAME}.rag")])
def test_templates_are_kept_under_keys_that_nobody_reads(
    tmp_path: Path, templates: tuple[str, ...]
) -> None:
    """Keys, not texts that hold the same words; everything else is what it was."""
    path = write(tmp_path / "base.gguf", *templates)
    copy = tmp_path / "sent.gguf"
    copy.write_bytes(sent(path))
    renamed = {
        key.replace(".chat_template", ".kept_template"): v for key, v in fields(path).items()
    }
    assert fields(copy) == renamed
    assert fields(copy)["general.name"] == NAME
    assert not [key for key in fields(copy) if key.startswith(NAME)]
    before, after = path.read_bytes(), copy.read_bytes()
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 4 * len(templates)


@pytest.mark.parametrize("shift", range(8))
def test_key_that_lies_across_two_blocks_is_renamed_whole(tmp_path: Path, shift: int) -> None:
    """From wholly before the edge, over each of its four letters, to wholly after it."""
    probe = write(tmp_path / "probe.gguf", NAME).read_bytes()
    wanted = BLOCK_BYTES - 5 + shift
    padding = 1 + wanted - probe.index(b"chat_template")
    path = write(tmp_path / "base.gguf", NAME, padding=padding)
    where = path.read_bytes().index(b"chat_template")
    assert where == wanted
    assert sent(path)[where : where + 13] == b"kept_template"


def test_file_of_version_2_is_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "base.gguf", NAME)
    content = bytearray(path.read_bytes())
    content[4] = 2
    path.write_bytes(content)
    assert b"kept_template" in sent(path)


def test_file_that_names_no_template_is_sent_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "base.gguf", f"{NAME}s", "tokenizer.chat")
    assert sent(path) == path.read_bytes()


@pytest.mark.parametrize("kind", ["big-endian", "version 1", "cut", "text", "empty"])
def test_file_that_cannot_be_read_is_left_to_the_host(tmp_path: Path, kind: str) -> None:
    """The host says in its own words what is wrong with it."""
    path = tmp_path / "base.gguf"
    if kind == "big-endian":
        write(path, NAME, endianess=gguf.GGUFEndian.BIG)
    else:
        whole = write(path, NAME).read_bytes()
        contents = {
            "version 1": whole[:4] + b"\1" + whole[5:],
            "cut": whole[:90],
            "text": b"hello",
            "empty": b"",
        }
        path.write_bytes(contents[kind])
    assert sent(path) == path.read_bytes()
