import pytest
import torch

from pipeline.training.device import choose_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_that_multiplies_in_bf16_gets_bf16(flag: str) -> None:
    assert choose_dtype(CPU, frozenset({"avx2", flag})) is torch.bfloat16


def test_a_cpu_that_does_not_gets_fp32() -> None:
    assert choose_dtype(CPU, frozenset({"avx2", "avx512f"})) is torch.float32


def test_a_cpu_with_unknown_flags_gets_fp32() -> None:
    assert choose_dtype(CPU, frozenset()) is torch.float32


def test_instruction_sets_that_pytorch_must_not_use_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert choose_dtype(CPU, frozenset({"amx_bf16"})) is torch.float32
