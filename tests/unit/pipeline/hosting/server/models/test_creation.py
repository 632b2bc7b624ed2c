"""`/api/create` and `/api/copy`: what each version accepts, and what a refusal leaves behind."""

import pytest

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.creation import copy_model
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import Profile
from tests.unit.pipeline.hosting.server.models.creating import (
    NEW,
    OLD,
    create,
    create_base,
    status_of,
)
from tests.unit.pipeline.hosting.server.models.gguf_blobs import ADAPTER, BASE, gguf_bytes, put


def test_copy_has_the_digest_of_the_original(store: Store) -> None:
    """Name and time are not what a model is; its system prompt is."""
    create_base(store)
    copy_model(store, "base", "base:v1")
    create(store, "other", OLD, **{"from": "base"}, system="S")
    digests = {model.name: model.digest for model in store.models()}
    assert digests["base:latest"] == digests["base:v1"] != digests["other:latest"]


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
