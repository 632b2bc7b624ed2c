"""Our GGUF adapters beside those of llama.cpp's own converter, byte for byte."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

from pipeline.training.adapter_export import export_gguf, save_peft
from tests.models.tiny_families import adapt, configs, make_model
from tests.servers.model_hosts import find_converter

# peft asks transformers for a name that transformers is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LIMIT_S = 120
FAMILIES = sorted(configs())
METADATA = ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha")


@pytest.fixture(scope="module")
def converter() -> Path:
    found = find_converter()
    if found is None:
        pytest.skip("no converter of llama.cpp: call `make hosts` once, or set LLAMA_CPP_SOURCE")
    return found


def convert(converter: Path, base: Path, adapter: Path, target: Path) -> gguf.GGUFReader:
    """Let llama.cpp convert a peft folder in F16."""
    command = [sys.executable, str(converter), "--base", str(base), "--outtype", "f16"]
    told = subprocess.run(
        [*command, "--outfile", str(target), str(adapter)], capture_output=True, timeout=LIMIT_S
    )
    assert told.returncode == 0, told.stderr.decode()[-2000:]
    return gguf.GGUFReader(target)


def contents(reader: gguf.GGUFReader) -> dict[str, tuple[Any, ...]]:
    """A file's tensors by name: type, shape and bytes."""
    return {t.name: (t.tensor_type, tuple(t.shape), t.data.tobytes()) for t in reader.tensors}


def metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: reader.fields[name].contents() for name in METADATA}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_llama_cpps_own_bytes(
    tmp_path: Path, converter: Path, family: str
) -> None:
    """Names, shapes, types and all numbers, also of layers with another rank."""
    model = make_model(configs()[family])
    model.config.save_pretrained(tmp_path / "base")
    # Some layers have another rank: llama.cpp takes it from each tensor.
    save_peft(adapt(model, rank_pattern={"o_proj": 3}), tmp_path / "adapter")
    ours = gguf.GGUFReader(export_gguf(tmp_path / "adapter", model.config))
    theirs = convert(converter, tmp_path / "base", tmp_path / "adapter", tmp_path / "their.gguf")
    assert contents(ours) == contents(theirs)
    assert metadata(ours) == metadata(theirs)
    assert len(ours.tensors) == 2 * 2 * (4 if family == "phi3" else 7)
