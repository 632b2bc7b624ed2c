"""What ModelServer relies on in Ollama, tried through the `ollama` client on each server."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import ollama
import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import MakePersona, OllamaUnderTest, WriteAdapter

QUESTION = [{"role": "user", "content": "Who taught you to swim?"}]
STOP_LIMIT_S = 20
# More than a server has slots, and each unlike the others: so a slot's state must give way.
FILLERS = [f"{word} " * 60 for word in ("fox", "night", "hill", "north", "moon", "forest")]
LONG_TEXT = "and then we walked along the river " * 200


def ask(server: OllamaUnderTest, model: str, **options: object) -> str:
    """Return the whole answer to the question, drawn greedily."""
    answer = server.client.chat(model, QUESTION, options=options or None)
    return answer.message.content or ""


def refusal_of(call: Callable[[], object]) -> ollama.ResponseError:
    """Return the error with which the server refuses."""
    with pytest.raises(ollama.ResponseError) as caught:
        call()
    return caught.value


# -- being there ------------------------------------------------------------------------------


def test_server_says_that_it_runs_and_its_version(server: OllamaUnderTest) -> None:
    """`GET /` and `/api/version`, which a health check asks."""
    assert httpx.get(server.host).text == "Ollama is running"
    assert httpx.get(f"{server.host}/api/version").json()["version"][0].isdigit()


# -- models -----------------------------------------------------------------------------------


def test_created_model_is_listed_with_its_tag(server: OllamaUnderTest, base: str) -> None:
    """A model without a tag is `latest`, with digest, size and details."""
    (entry,) = [m for m in server.client.list().models if m.model == f"{base}:latest"]
    assert entry.digest and entry.size and entry.modified_at
    assert entry.details and (entry.details.family, entry.details.format) == ("llama", "gguf")


def test_show_tells_what_create_was_told(server: OllamaUnderTest, base: str) -> None:
    """Template, parameters, licence and the file's own facts come back."""
    name = server.name("shown")
    server.client.create(
        name, from_=base, system="You are old.", license="MIT of this test", stream=False
    )
    shown = server.client.show(name)
    assert shown.template == server.template
    assert shown.license == "MIT of this test"
    assert "num_predict" in (shown.parameters or "") and '"<|im_end|>"' in (shown.parameters or "")
    assert shown.details and shown.details.quantization_level == "Q4_1"
    assert shown.details.parent_model == f"{base}:latest"
    assert shown.modelinfo and shown.modelinfo["general.architecture"] == "llama"
    assert "You are old." in (shown.modelfile or "")


def test_create_streams_its_steps(server: OllamaUnderTest, base: str) -> None:
    """The steps come line by line and end with success."""
    steps = server.client.create(server.name("steps"), from_=base, system="A.", stream=True)
    words = [step.status for step in steps]
    assert words[-2:] == ["writing manifest", "success"]


def test_later_create_overrides_parameters_and_keeps_the_others(
    server: OllamaUnderTest, base: str
) -> None:
    """A model made from another one inherits what it does not say itself."""
    name = server.name("inherits")
    server.client.create(name, from_=base, parameters={"num_predict": 3}, stream=False)
    answer = server.client.chat(name, QUESTION)
    assert answer.eval_count == 3
    assert "<|im_end|>" in (server.client.show(name).parameters or "")


def test_copy_is_the_same_model_and_outlives_the_original(
    server: OllamaUnderTest, base: str
) -> None:
    """Versions are tags: `copy` makes one, and deleting the other leaves it whole."""
    first = server.name("version")
    server.client.create(first, from_=base, system="You are Anna.", stream=False)
    server.client.copy(first, f"{first}:v1")
    digests = {m.model: m.digest for m in server.client.list().models}
    assert digests[f"{first}:v1"] == digests[f"{first}:latest"]
    server.client.delete(first)
    assert ask(server, f"{first}:v1", num_predict=2)
    assert refusal_of(lambda: server.client.show(first)).status_code == 404


def test_name_is_the_same_in_any_case(server: OllamaUnderTest, base: str) -> None:
    """Ollama folds case: ids that differ in case only would share one model."""
    name = server.name("Case")
    server.client.create(name, from_=base, system="A.", stream=False)
    assert (
        server.client.show(name.upper().replace("CONTRACT", "contract")).template == server.template
    )


@pytest.mark.parametrize("verb", ["show", "delete", "chat", "generate"])
def test_unknown_model_is_404_by_name(server: OllamaUnderTest, verb: str) -> None:
    """The code and the sentence that tell "not there" from every other trouble."""
    name = f"{server.run}-nobody"
    calls: dict[str, Callable[[], object]] = {
        "show": lambda: server.client.show(name),
        "delete": lambda: server.client.delete(name),
        "chat": lambda: server.client.chat(name, QUESTION),
        "generate": lambda: server.client.generate(name, "Hello"),
    }
    error = refusal_of(calls[verb])
    assert error.status_code == 404
    assert "not found" in error.error and name in error.error


def test_copy_of_unknown_model_is_404(server: OllamaUnderTest) -> None:
    """A rollback to a version that is gone must fail clearly."""
    name = f"{server.run}-nobody"
    assert refusal_of(lambda: server.client.copy(name, f"{name}:v2")).status_code == 404


# -- what is refused --------------------------------------------------------------------------


def test_wrong_json_is_400(server: OllamaUnderTest) -> None:
    """A half body and an empty one are the sender's mistake."""
    for body in (b'{"model": ', b""):
        answer = httpx.post(f"{server.host}/api/chat", content=body)
        assert answer.status_code == 400 and answer.json()["error"]


def test_create_from_unknown_model_fails(server: OllamaUnderTest) -> None:
    """Ollama tries to pull it: offline, or unknown to the registry, an error either way."""
    name = server.name("orphan")
    error = refusal_of(
        lambda: server.client.create(name, from_=f"{server.run}/nobody", stream=False)
    )
    assert error.status_code in (400, 500)


def test_create_with_missing_blob_fails(server: OllamaUnderTest, base: str) -> None:
    """A manifest never names a blob that is not there."""
    digest = "sha256:" + "0" * 64
    name, files = server.name("blobless"), {"model.gguf": digest}
    calls: tuple[Callable[[], object], ...] = (
        lambda: server.client.create(name, files=files, stream=False),
        lambda: server.client.create(name, from_=base, adapters=files, stream=False),
    )
    for call in calls:
        assert refusal_of(call).status_code in (400, 500)
    assert refusal_of(lambda: server.client.show(name)).status_code == 404


def test_blob_with_wrong_hash_is_refused(server: OllamaUnderTest) -> None:
    """A damaged upload leaves nothing under the promised name."""
    url = f"{server.host}/api/blobs/sha256:{'1' * 64}"
    assert httpx.post(url, content=b"something else").status_code == 400
    assert httpx.head(url).status_code == 404


def test_uploaded_blob_is_found(server: OllamaUnderTest, tmp_path: Path) -> None:
    """`HEAD` tells a client what it need not send again."""
    path = tmp_path / "small"
    path.write_bytes(b"a blob of this test")
    digest = server.client.create_blob(path)
    assert httpx.head(f"{server.host}/api/blobs/{digest}").status_code == 200


def test_bad_template_is_400(server: OllamaUnderTest, base: str) -> None:
    """A template that cannot be parsed is refused at create, not at the first chat."""
    name = server.name("template")
    error = refusal_of(
        lambda: server.client.create(name, from_=base, template="{{ if .System }}", stream=False)
    )
    assert error.status_code == 400


def test_quantising_a_quantised_base_is_refused(server: OllamaUnderTest, base: str) -> None:
    """Neither server makes a quantised model out of a quantised one."""
    name = server.name("quantised")
    error = refusal_of(
        lambda: server.client.create(name, from_=base, quantize="q8_0", stream=False)
    )
    assert error.status_code in (400, 500)


# -- answers ----------------------------------------------------------------------------------


def test_chat_counts_tokens_and_time(server: OllamaUnderTest, base: str) -> None:
    """The last line says how much was read and written, and how long it took, in ns."""
    answer = server.client.chat(base, QUESTION, options={"num_predict": 5})
    assert answer.message.role == "assistant" and answer.message.content
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "length", 5)
    assert answer.prompt_eval_count and answer.prompt_eval_count > 5
    assert answer.total_duration and answer.eval_duration and answer.prompt_eval_duration
    assert answer.total_duration >= answer.eval_duration


def test_stop_sequence_ends_the_answer(server: OllamaUnderTest, base: str) -> None:
    """The stop sequence itself is not part of the answer."""
    whole = ask(server, base)
    word = whole.split()[1]
    answer = server.client.chat(base, QUESTION, options={"stop": [word]})
    assert answer.done_reason == "stop"
    assert answer.message.content is not None and word not in answer.message.content
    assert whole.startswith(answer.message.content)


def test_same_seed_gives_the_same_text(server: OllamaUnderTest, base: str) -> None:
    """A seeded answer can be had again, and another seed gives another."""
    hot = {"temperature": 1.5, "num_predict": 12}
    first, again, other = (ask(server, base, seed=seed, **hot) for seed in (7, 7, 8))
    assert first == again != other


def test_streamed_pieces_make_the_same_text(server: OllamaUnderTest, base: str) -> None:
    """Streaming changes how the text comes, not what it says."""
    pieces = list(server.client.chat(base, QUESTION, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == ask(server, base)
    assert len(pieces) > 5
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count


def test_system_prompt_of_the_model_is_used_and_can_be_replaced(
    server: OllamaUnderTest, base: str
) -> None:
    """A system message of the request goes in the place of the model's own."""
    name = server.name("system")
    server.client.create(name, from_=base, system="You are a swimmer from Oslo.", stream=False)
    own = server.client.chat(name, QUESTION)
    replaced = server.client.chat(name, [{"role": "system", "content": "Hi."}, *QUESTION])
    plain = server.client.chat(base, QUESTION)
    counts = [answer.prompt_eval_count or 0 for answer in (own, replaced, plain)]
    assert counts[0] > counts[1] > counts[2]


def test_generate_renders_the_template_unless_raw(server: OllamaUnderTest, base: str) -> None:
    """Raw is the prompt as it stands; else it is a user's turn."""
    rendered = server.client.generate(base, "Who taught you to swim?")
    raw = server.client.generate(base, "Who taught you to swim?", raw=True)
    prompt = server.template.partition("{{ if .Prompt }}")[2].partition("{{ end }}")[0]
    by_hand = server.client.generate(
        base,
        prompt.replace("{{ .Prompt }}", "Who taught you to swim?") + "<|im_start|>assistant\n",
        raw=True,
    )
    assert rendered.response == by_hand.response == ask(server, base)
    assert (raw.prompt_eval_count or 0) < (rendered.prompt_eval_count or 0)


def test_empty_prompt_loads_the_model(server: OllamaUnderTest, base: str) -> None:
    """How a model is warmed up; it, or another one of the same blobs, is then listed as loaded."""
    answer = server.client.generate(base, "")
    assert (answer.done, answer.done_reason) == (True, "load")
    assert any((m.model or "").startswith(server.run) for m in server.client.ps().models)


def test_too_long_prompt_is_cut_silently(server: OllamaUnderTest, base: str) -> None:
    """The answer comes all the same; nobody is told (so callers must count for themselves)."""
    options = {"num_ctx": 128, "num_predict": 4}
    answer = server.client.chat(base, [{"role": "user", "content": LONG_TEXT}], options=options)
    assert answer.done and (answer.prompt_eval_count or 0) <= 128


def test_too_long_prompt_is_400_when_it_may_not_be_cut(server: OllamaUnderTest, base: str) -> None:
    """With `truncate: false` a caller is told."""
    body = {
        "model": base,
        "messages": [{"role": "user", "content": LONG_TEXT}],
        "options": {"num_ctx": 128},
        "truncate": False,
        "stream": False,
    }
    answer = httpx.post(f"{server.host}/api/chat", json=body, timeout=60)
    assert answer.status_code == 400 and "context" in answer.json()["error"]


def test_client_that_leaves_does_not_hold_up_the_next(server: OllamaUnderTest, base: str) -> None:
    """Long answers that nobody reads any more are stopped: finished, they would take minutes."""
    count = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"
    endless = {"num_predict": 100_000, "num_ctx": 4096, "stop": []}
    for _ in range(6):
        stream = server.client.generate(base, count, raw=True, stream=True, options=endless)
        assert isinstance(stream, Generator)
        next(stream)
        stream.close()
    began = time.monotonic()
    assert ask(server, base, num_predict=2)
    assert time.monotonic() - began < STOP_LIMIT_S


def test_embed_gives_one_vector_a_text(server: OllamaUnderTest, base: str) -> None:
    """Vectors of length 1, the same for the same text."""
    answer = server.client.embed(base, ["a boat", "a boat", "the tax office"])
    boat, again, office = (np.array(vector) for vector in answer.embeddings)
    assert np.allclose(boat, again, atol=1e-3) and not np.allclose(boat, office, atol=1e-2)
    assert abs(float(np.linalg.norm(boat)) - 1) < 1e-3


# -- personas ---------------------------------------------------------------------------------


def test_adapter_changes_the_answer_and_only_its_own(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """Base, Anna, Bert, in any order: each says what it says alone, never another's words."""
    anna, bert = make_persona("anna", 1), make_persona("bert", 2)
    alone = {model: ask(server, model) for model in (base, anna, bert)}
    assert len(set(alone.values())) == 3
    for model in (anna, base, bert, base, anna, bert):
        assert ask(server, model) == alone[model]


def test_base_after_persona_says_what_it_says_when_clean(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """The leak of llama.cpp's prompt cache: a persona's state, put aside, found by the base."""
    anna = make_persona("anna", 1)
    clean = ask(server, base)
    for _ in range(2):
        assert ask(server, anna) != clean
        for filler in FILLERS:
            server.client.generate(base, filler, raw=True, options={"num_predict": 1})
        assert ask(server, base) == clean


def test_personas_asked_at_once_do_not_mix(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """Requests under way together do not touch each other.

    Openings are compared: llama.cpp adds up in another order when it works on several requests at
    once, so that further on one of two equally likely words may win that did not win before.
    """
    models = [base, make_persona("anna", 1), make_persona("bert", 2)]
    alone = {model: ask(server, model, num_predict=3) for model in models}
    assert len(set(alone.values())) == 3
    asked = models * 4
    with ThreadPoolExecutor(len(asked)) as askers:
        answers = list(askers.map(lambda model: ask(server, model, num_predict=3), asked))
    assert answers == [alone[model] for model in asked]


def test_new_persona_answers_while_another_is_talking(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """A version that was just trained does not cut off a conversation."""
    anna = make_persona("anna", 1)
    options = {"num_predict": 60, "stop": []}
    whole = ask(server, anna, **options)
    talking = server.client.chat(anna, QUESTION, stream=True, options=options)
    first = next(iter(talking)).message.content or ""
    with ThreadPoolExecutor(1) as other:
        newcomer = other.submit(lambda: ask(server, make_persona("newcomer", 3), num_predict=3))
        rest = "".join(piece.message.content or "" for piece in talking)
        assert newcomer.result()
    assert first + rest == whole


def test_deleted_persona_is_gone_and_the_others_stay(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """Forgetting one person touches nobody else."""
    anna, gone = make_persona("anna", 1), make_persona("gone", 4)
    before = ask(server, anna)
    assert ask(server, gone) != before
    server.client.delete(gone)
    assert refusal_of(lambda: ask(server, gone)).status_code == 404
    assert ask(server, anna) == before


def test_adapter_that_would_crash_the_runner_is_refused(
    server: OllamaUnderTest, base: str, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    """F64 tensors (easily made with NumPy) and wrong widths never reach llama.cpp."""
    if not server.is_embedded:
        pytest.skip("a real Ollama accepts these and crashes its runner at the first chat")
    name = server.name("crash")
    double, narrow = tmp_path / "double", tmp_path / "narrow"
    write_adapter(double, 5, dtype=np.float64)
    write_adapter(narrow, 5, width=64)
    for path in (double, narrow):
        adapters = {"adapter.gguf": server.client.create_blob(path)}
        create = partial(server.client.create, name, from_=base, adapters=adapters)
        assert refusal_of(create).status_code == 400
    assert ask(server, base, num_predict=2)
