"""Uploaded blobs: checked, whole or absent, deleted with the last model that needs them."""

import os
from pathlib import Path

import pytest

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.creation import copy_model
from pipeline.hosting.server.models.store import Store
from tests.unit.pipeline.hosting.server.models.creating import OLD, create, create_base, status_of
from tests.unit.pipeline.hosting.server.models.gguf_blobs import ADAPTER, BASE, put


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
