"""Blobs and manifests on the disk: written whole, found again, removed with their last model."""

import os
from pathlib import Path

import pytest

from pipeline.hosting.server.creation import copy_model
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.names import ModelName
from pipeline.hosting.server.store import Store
from tests.unit.pipeline.hosting.server.blobs import (
    ADAPTER,
    BASE,
    OLD,
    create,
    create_base,
    put,
    status_of,
)


def test_blob_lies_under_its_digest(store: Store, tmp_path: Path) -> None:
    """Content-addressed, with the name Ollama gives it."""
    digest = put(store, BASE)
    path = tmp_path / "blobs" / digest.replace(":", "-")
    assert path.read_bytes() == BASE and store.has_blob(digest)


def test_blob_with_wrong_hash_leaves_nothing(store: Store, tmp_path: Path) -> None:
    """Not under the promised name, and no partial file either."""
    with pytest.raises(Refusal) as error, store.upload("sha256:" + "0" * 64) as upload:
        upload.write(b"other")
        upload.finish()
    assert status_of(error) == 400
    assert list((tmp_path / "blobs").iterdir()) == []


def test_upload_that_breaks_off_leaves_nothing(store: Store, tmp_path: Path) -> None:
    """A client that leaves halfway."""
    with pytest.raises(ConnectionError), store.upload("sha256:" + "0" * 64) as upload:
        upload.write(b"half")
        raise ConnectionError
    assert list((tmp_path / "blobs").iterdir()) == []


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:xyz", "../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0"]
)
def test_wrong_digest_is_refused(store: Store, digest: str) -> None:
    """No digest can name a path."""
    with pytest.raises(Refusal) as error:
        store.has_blob(digest)
    assert status_of(error) == 400


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("afs_elder_X", "afs_elder_X:latest"),
        ("afs_elder_X:v3", "afs_elder_X:v3"),
        ("family/li.1:v1.0", "family/li.1:v1.0"),
    ],
)
def test_names(text: str, name: str) -> None:
    """`latest` unless a tag is given."""
    assert str(ModelName.parse(text)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":v1",
        "a:",
        "a:b:c",
        "../a",
        "a/../b",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/.",
        "a b",
        "a%2f",
        "a\0",
        "a\n",
        "爷爷",
        "a" * 300,
        "a:../b",
        "a:-b",
    ],
)
def test_wrong_names_are_refused(text: str) -> None:
    """No name can leave the folder, or be two things."""
    with pytest.raises(Refusal) as error:
        ModelName.parse(text)
    assert status_of(error) == 400


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


def test_blobs_go_with_the_last_model_that_needs_them(store: Store) -> None:
    """Not before, and not later."""
    base = create_base(store)
    adapter = put(store, ADAPTER)
    for name in ("anna", "bert"):
        create(store, name, OLD, **{"from": "base"}, adapters={"a.gguf": adapter})
    assert store.delete("anna") == frozenset()
    assert store.has_blob(adapter)
    assert store.delete("bert") == {adapter}
    assert not store.has_blob(adapter) and store.has_blob(base)


def test_copy_has_the_digest_of_the_original(store: Store) -> None:
    """Name and time are not what a model is; its system prompt is."""
    create_base(store)
    copy_model(store, "base", "base:v1")
    create(store, "other", OLD, **{"from": "base"}, system="S")
    digests = {model.name: model.digest for model in store.models()}
    assert digests["base:latest"] == digests["base:v1"] != digests["other:latest"]


def test_names_that_differ_in_case_are_one_model(store: Store) -> None:
    """As in Ollama; whoever makes names from ids has to know."""
    create_base(store, "Li")
    assert store.find("li").name == "Li:latest"


def test_blobs_of_a_model_that_is_replaced_go(store: Store) -> None:
    """As in Ollama; those that it shares with its successor, or another model, stay."""
    base = create_base(store)
    adapters = [put(store, ADAPTER + bytes(extra)) for extra in (1, 2)]
    for digest in adapters:
        create(store, "anna", OLD, **{"from": "base"}, adapters={"a.gguf": digest})
    assert [store.has_blob(digest) for digest in (base, *adapters)] == [True, False, True]
    assert copy_model(store, "base", "anna") == {adapters[1]}
    assert store.adapters_of(base) == [] and store.has_blob(base)


def test_old_blobs_that_no_model_needs_go_at_the_start(store: Store, tmp_path: Path) -> None:
    """Not young ones, whose model may be about to be made, and nothing that is no blob."""
    base = create_base(store)
    old, young = put(store, ADAPTER), put(store, ADAPTER + b"young")
    store.close()
    foreign = tmp_path / "blobs" / "sha256-notes.txt"
    foreign.write_text("mine")
    for path in (*(tmp_path / "blobs" / d.replace(":", "-") for d in (base, old)), foreign):
        os.utime(path, (0, 0))
    again = Store(tmp_path)
    assert [again.has_blob(digest) for digest in (base, old, young)] == [True, False, True]
    assert foreign.read_text() == "mine"
    again.close()
