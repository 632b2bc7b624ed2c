"""Weights are data: loading a file never runs code from it."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repository import REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
PACKAGES = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
FILES = [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]
# Loading with any of them may run code from the file; torch.load unpickles.
CODE_LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADS = ".from_pretrained"
CODE_LOADING_CALLS = {"torch.load", "torch.jit.load", "np.load", "numpy.load", "eval", "exec"}


def nodes(file: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(file.read_text("utf-8")))


def is_true(node: ast.expr) -> bool:
    return not (isinstance(node, ast.Constant) and node.value is False)


def faults(file: Path) -> Iterator[str]:
    """Name each place that could load code."""
    for node in nodes(file):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case ast.Call() if ast.unparse(node.func) in CODE_LOADING_CALLS:
                yield f"{file}:{node.lineno}: {ast.unparse(node.func)}"
                continue
            case ast.keyword(arg="trust_remote_code", value=value) if is_true(value):
                yield f"{file}:{value.lineno}: trust_remote_code"
                continue
            case _:
                continue
        yield from (f"{file}: {m}" for m in modules if m.split(".")[0] in CODE_LOADERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_nothing_is_loaded_that_could_be_code(file: Path) -> None:
    assert list(faults(file)) == []


def test_this_test_sees_what_it_looks_for(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        "import pickle\nfrom joblib import load\ntorch.load(x)\nf(trust_remote_code=True)\n"
        "f(trust_remote_code=False)\nf(trust_remote_code=anything)\n",
        encoding="utf-8",
    )
    assert len(list(faults(file))) == 5


def test_models_are_loaded_from_local_safetensors_or_gguf_without_code() -> None:
    """By the arguments of `from_pretrained`; `**source` is a dictionary in the same file."""
    calls = 0
    for file in FILES:
        text = file.read_text("utf-8")
        for node in nodes(file):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith(LOADS)):
                continue
            calls += 1
            told = ast.unparse(node)
            if "**source" in told:
                assert '"trust_remote_code": False' in text and '"gguf_file":' in text
                assert '"local_files_only": True' in text
                continue
            assert "trust_remote_code=False" in told and "local_files_only=True" in told
            if "Model" in ast.unparse(node.func):
                assert "use_safetensors=True" in told
    assert calls == 5
