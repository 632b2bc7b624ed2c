"""Blobs and manifests: whole or absent, checked, and never outside their folder."""

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.hosting.server.creation import copy_model, create_model
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.names import ModelName
from pipeline.hosting.server.profile import PROFILES, Profile
from pipeline.hosting.server.shapes import CreateRequest
from pipeline.hosting.server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    opened = Store(tmp_path)
    yield opened
    opened.close()


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


OLD, NEW = PROFILES["ollama-0.32"], PROFILES["ollama-0.34"]


def create(store: Store, model: str, profile: Profile, /, **fields: object) -> None:
    """Create a model from the fields of a request."""
    request = CreateRequest.model_validate({"model": model, **fields})
    assert list(create_model(store, profile, request))[-1] == "success"


def create_base(store: Store, model: str = "base") -> str:
    """Create a model without adapter and return its blob's digest."""
    digest = put(store, BASE)
    create(store, model, OLD, files={"base.gguf": digest})
    return digest


def status_of(error: pytest.ExceptionInfo[Refusal]) -> int:
    """Return the status code of a refusal."""
    return error.value.status


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


def test_adapter_that_does_not_fit_is_refused(store: Store) -> None:
    """Before llama.cpp sees it: a wrong one would crash the runner or be ignored."""
    create_base(store)
    wrong = {
        "no partner": (("blk.0.attn_q.weight.lora_a", (8, 2)),),
        "other width": (
            ("blk.0.attn_q.weight.lora_a", (7, 2)),
            ("blk.0.attn_q.weight.lora_b", (2, 6)),
        ),
        "unknown tensor": (("x.lora_a", (8, 2)), ("x.lora_b", (2, 6))),
        "no LoRA": (("blk.0.attn_q.weight", (8, 6)),),
    }
    for what, tensors in wrong.items():
        digest = put(store, gguf_bytes("adapter", tensors))
        with pytest.raises(Refusal) as error:
            create(store, "anna", OLD, **{"from": "base"}, adapters={"a.gguf": digest})
        assert status_of(error) == 400, what
    with pytest.raises(Refusal):
        store.find("anna")


NO_GGUF = b"not a model"
CUT_HEADER, WRONG_VERSION = BASE[:30], b"GGUF" + bytes(40)
CUT_TENSORS = BASE[: -1024 + 8 * 6 * 4 - 40]


@pytest.mark.parametrize(
    ("content", "profile", "status"),
    [
        (NO_GGUF, OLD, 400),
        (NO_GGUF, NEW, 500),
        *((content, OLD, 500) for content in (CUT_HEADER, WRONG_VERSION, CUT_TENSORS)),
        *((content, NEW, 500) for content in (CUT_HEADER, WRONG_VERSION, CUT_TENSORS)),
    ],
)
def test_file_that_is_no_whole_gguf_is_refused(
    store: Store, content: bytes, profile: Profile, status: int
) -> None:
    """Also one that only begins like one, or lacks its end."""
    digest = put(store, content)
    with pytest.raises(Refusal) as error:
        create(store, "x", profile, files={"x.gguf": digest})
    assert status_of(error) == status
    with pytest.raises(Refusal):
        store.find("x")


NOWHERE = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("fields", "old", "new"),
    [
        ({}, 400, 400),
        ({"files": {}}, 400, 400),
        ({"files": {"/etc/passwd": NOWHERE}}, 400, 400),
        ({"files": {"../x": NOWHERE}}, 400, 400),
        ({"files": {"x.gguf": "not a digest"}}, 500, 400),
        ({"files": {"x.gguf": ""}}, 400, 400),
        ({"files": {"x.gguf": NOWHERE}}, 500, 500),
        ({"files": {"x.bin": NOWHERE}}, 400, 400),
        ({"files": {"x.safetensors": NOWHERE}}, 400, 400),
        ({"files": {"x.gguf": NOWHERE, "y.safetensors": NOWHERE}}, 400, 400),
        ({"from": "base", "template": "{{ nonsense }}"}, 400, 400),
        ({"from": "base", "quantize": "q4_K_M"}, 500, 400),
        ({"from": "base", "license": 5}, 500, 400),
        ({"from": "base", "adapters": {"a.gguf": ""}}, 400, 400),
        ({"from": "base", "adapters": {"a.gguf": NOWHERE}}, 400, 400),
        ({"from": "a b"}, 400, 400),
        ({"from": "nobody"}, 500, 500),
    ],
)
def test_wrong_create_requests_are_refused(
    store: Store, fields: dict[str, object], old: int, new: int
) -> None:
    """With the status of each version; and they leave no model."""
    create_base(store)
    for profile, status in ((OLD, old), (NEW, new)):
        with pytest.raises(Refusal) as error:
            create(store, "new", profile, **fields)
        assert status_of(error) == status, profile.name
        with pytest.raises(Refusal):
            store.find("new")


def test_adapter_is_refused_by_newer_versions_and_carried_over(store: Store) -> None:
    """A model made earlier with an adapter is there; what is made from it has the adapter too."""
    create_base(store)
    adapters = {"a.gguf": put(store, ADAPTER)}
    create(store, "old", OLD, **{"from": "base"}, adapters=adapters)
    with pytest.raises(Refusal, match="LoRA adapters are no longer supported") as error:
        create(store, "new", NEW, **{"from": "base"}, adapters=adapters)
    assert status_of(error) == 400
    with pytest.raises(Refusal, match=r"a\.gguf is a LoRA adapter"):
        create(store, "new", NEW, files=adapters)
    create(store, "heir", NEW, **{"from": "old"}, system="S")
    assert store.find("heir").adapters == tuple(adapters.values())


def test_sampling_that_newer_versions_lack_is_refused(store: Store) -> None:
    """`typical_p` only; a null means that it is not set."""
    create_base(store)
    create(store, "old", OLD, **{"from": "base"}, parameters={"typical_p": 0.5})
    create(store, "new", NEW, **{"from": "base"}, parameters={"typical_p": None})
    with pytest.raises(Refusal, match="typical_p is no longer supported"):
        create(store, "new", NEW, **{"from": "base"}, parameters={"typical_p": 0.5})


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
