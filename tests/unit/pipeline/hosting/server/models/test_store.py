"""Manifests on disk: they survive a restart and belong to one process."""

from pathlib import Path

import pytest

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.store import Store
from tests.unit.pipeline.hosting.server.models.creating import OLD, create, create_base, status_of


def test_models_outlive_a_restart(store: Store, tmp_path: Path) -> None:
    """All that `create` was told is on disk."""
    create_base(store)
    create(store, "anna", OLD, **{"from": "base"}, system="S", parameters={"stop": ["x"]})
    store.close()
    again = Store(tmp_path)
    anna = again.find("anna")
    assert (anna.system, anna.parameters, anna.parent) == ("S", {"stop": ["x"]}, "base:latest")
    again.close()


def test_second_server_on_one_folder_is_refused(store: Store, tmp_path: Path) -> None:
    """Two owners would delete each other's blobs."""
    with pytest.raises(BlockingIOError):
        Store(tmp_path)


def test_partial_files_of_a_crash_are_removed(tmp_path: Path) -> None:
    """They were never promised to anybody."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ".sha256-0.1.partial").write_bytes(b"half")
    Store(tmp_path).close()
    assert list((tmp_path / "blobs").iterdir()) == []


def test_damaged_manifest_is_named(store: Store, tmp_path: Path) -> None:
    """Not skipped: a person's model would silently be gone."""
    create_base(store)
    store.close()
    (tmp_path / "manifests" / "base@latest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged; restore"):
        Store(tmp_path)


def test_unknown_model_is_404(store: Store) -> None:
    """For reading and for deleting."""
    for call in (store.find, store.delete):
        with pytest.raises(Refusal, match="model 'nobody' not found") as error:
            call("nobody")
        assert status_of(error) == 404


def test_names_that_differ_in_case_are_one_model(store: Store) -> None:
    """As in Ollama; whoever makes names from ids has to know."""
    create_base(store, "Li")
    assert store.find("li").name == "Li:latest"
