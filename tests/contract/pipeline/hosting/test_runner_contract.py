"""The port to one loaded llama.cpp: on the fake, in the process, and as a real llama-server.

What matters most is that no persona ever hears another, whatever was asked before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from embedded.ollama.runner import LlamaRunner
from pipeline.hosting.llama_server import LlamaServer, LlamaServers, find_llama_server
from pipeline.hosting.server.completions.options import Options
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.runner import LoadRunner, Runner
from pipeline.hosting.server.runners.usage import TokenLogprob, Usage
from tests.fakes.llama_runner import FakeLlama
from tests.servers.model_hosts import find_llama_server as find_program

if TYPE_CHECKING:
    from tests.contract.pipeline.hosting.ollama_server import WriteAdapter

PROMPT = "<|im_start|>user\nWho taught you to swim?<|im_end|>\n<|im_start|>assistant\n"
LONG = "a b c d " * 400
CONTEXT = 512
# Openings: going on from a known prompt adds up in another order, and of two nearly equal words
# further on the other may win then.
OPTIONS = Options(num_ctx=CONTEXT, num_predict=3, temperature=0.0, seed=1)
ANNA, BERT = "sha256:anna", "sha256:bert"


@pytest.fixture(scope="module")
def adapters(
    tmp_path_factory: pytest.TempPathFactory, write_adapter: WriteAdapter
) -> Mapping[str, Path]:
    """Two random adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    files = {ANNA: folder / "anna.gguf", BERT: folder / "bert.gguf"}
    for seed, path in enumerate(files.values(), start=1):
        write_adapter(path, seed)
    return files


@pytest.fixture(scope="module", params=["fake", "xllamacpp", "llama-server"])
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadRunner:
    """The LoadRunner under test."""
    if request.param == "fake":
        return FakeLlama()
    if request.param == "xllamacpp":
        return LlamaRunner
    program = find_program()
    if program is None:
        pytest.skip("no llama-server: call `make hosts` once, or set LLAMA_SERVER_BIN")
    logs = tmp_path_factory.mktemp("logs")
    return LlamaServers(find_llama_server(str(program)), logs, start_limit_s=120)


@pytest.fixture(scope="module")
def runner(load: LoadRunner, base_gguf: Path, adapters: Mapping[str, Path]) -> Iterator[Runner]:
    """A base with two personas."""
    loaded = load(base_gguf, adapters, context=CONTEXT, slots=2, threads=1)
    yield loaded
    loaded.close()


def ask(runner: Runner, adapters: Sequence[str], **other: Any) -> tuple[str, Usage]:
    """Return the answer to PROMPT and its usage."""
    pieces: list[str] = []

    def on_piece(text: str) -> bool:
        pieces.append(text)
        return False

    asked: dict[str, Any] = {
        "prompt": PROMPT,
        "options": OPTIONS,
        "cuts": True,
        "schema": None,
    } | other
    usage = runner.complete(adapters=adapters, on_piece=on_piece, **asked)
    return "".join(pieces), usage


def test_runner_says_what_it_has(runner: Runner) -> None:
    """The adapters in the order in which they were loaded, and the context of one request."""
    assert runner.adapters == (ANNA, BERT)
    assert runner.context == CONTEXT
    assert runner.fault() is None


def test_each_persona_answers_as_when_it_is_alone(
    load: LoadRunner, runner: Runner, base_gguf: Path, adapters: Mapping[str, Path]
) -> None:
    """The index of an adapter does not change its persona's answers."""
    alone = load(base_gguf, {BERT: adapters[BERT]}, context=CONTEXT, slots=1, threads=1)
    try:
        expected = ask(alone, [BERT])[0]
    finally:
        alone.close()
    assert ask(runner, [BERT])[0] == expected
    assert len({ask(runner, who)[0] for who in ([], [ANNA], [BERT])}) == 3


def test_what_was_asked_before_changes_nothing(runner: Runner) -> None:
    """The same prompt on two slots, in any order of personas: each answers as it does alone."""
    personas: tuple[tuple[str, ...], ...] = ((), (ANNA,), (BERT,))
    clean = {who: ask(runner, list(who))[0] for who in personas}
    order: list[tuple[str, ...]] = [
        (ANNA,),
        (),
        (BERT,),
        (BERT,),
        (ANNA,),
        (BERT,),
        (),
        (),
        (ANNA,),
        (),
    ]
    assert [ask(runner, list(who))[0] for who in order] == [clean[who] for who in order]


def test_adapter_that_is_not_loaded_is_refused(runner: Runner) -> None:
    """The base never answers instead."""
    with pytest.raises(Refusal) as caught:
        ask(runner, ["sha256:cleo"])
    assert caught.value.status == 500


def test_prompt_that_is_too_long_is_cut_or_refused(runner: Runner) -> None:
    """According to `cuts`."""
    with pytest.raises(Refusal) as caught:
        ask(runner, [ANNA], prompt=LONG, cuts=False)
    assert caught.value.status == 400
    assert ask(runner, [ANNA], prompt=LONG)[1].prompt_tokens > 0


def test_refused_request_leaves_no_trace_in_a_slot(runner: Runner) -> None:
    """Bert's request fails on the slot with Anna's cache; then Bert sends it again."""
    clean = ask(runner, [BERT])[0]
    for _ in range(2):
        ask(runner, [ANNA])
        with pytest.raises(Refusal):
            ask(runner, [BERT], prompt=LONG, cuts=False)
    assert ask(runner, [BERT])[0] == clean


def test_whoever_has_enough_stops_it(runner: Runner) -> None:
    """The pieces so far are counted, and the next request succeeds."""
    usage = runner.complete(
        PROMPT,
        OPTIONS.model_copy(update={"num_predict": 400}),
        adapters=[ANNA],
        cuts=True,
        schema=None,
        on_piece=bool,
    )
    assert usage.done_reason == "cancelled"
    assert ask(runner, [ANNA])[1].done_reason in {"stop", "length"}


def test_probabilities_come_before_their_piece(runner: Runner) -> None:
    """Only where they are asked for."""
    heard: list[TokenLogprob] = []
    text, _ = ask(runner, [ANNA], top_logprobs=2, on_logprobs=heard.extend)
    assert text.startswith(heard[0].token)
    assert all(token.logprob <= 0 for token in heard)


def test_prompt_is_counted_in_tokens(runner: Runner) -> None:
    """More text, more tokens."""
    assert 0 < runner.count_tokens("swim") < runner.count_tokens("Who taught you to swim?")


def test_embedder_gives_vectors_of_length_one(load: LoadRunner, base_gguf: Path) -> None:
    """One vector per text, shortened if fewer dimensions are requested."""
    embedder = load(
        base_gguf, {}, context=CONTEXT, slots=1, threads=1, embeds=True, pools_last_token=True
    )
    try:
        vectors, tokens = embedder.embed(["a boat", "the tax office"], None)
        assert len(vectors) == 2 and tokens > 0
        assert all(abs(sum(x * x for x in vector) - 1) < 1e-3 for vector in vectors)
    finally:
        embedder.close()


def test_damaged_adapter_is_refused(load: LoadRunner, base_gguf: Path, tmp_path: Path) -> None:
    """With 500, and no process is left."""
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF and no more")
    if isinstance(load, FakeLlama):
        load.damaged.add("sha256:damaged")
    with pytest.raises(Refusal) as caught:
        load(base_gguf, {"sha256:damaged": damaged}, context=CONTEXT, slots=1, threads=1)
    assert caught.value.status == 500


def test_closed_runner_refuses_what_was_queued_for_it(
    load: LoadRunner, base_gguf: Path, adapters: Mapping[str, Path]
) -> None:
    """With 503, which does not count against the model; the process has ended."""
    closed = load(base_gguf, {}, context=CONTEXT, slots=1, threads=1)
    address = closed._server.listening_address if isinstance(closed, LlamaRunner) else None
    closed.close()
    with pytest.raises(Refusal) as caught:
        ask(closed, [])
    assert caught.value.status == 503
    if address is not None:
        with pytest.raises(httpx.ConnectError):
            httpx.get(address, trust_env=False)


def test_log_of_the_process_has_no_prompt(load: LoadRunner, runner: Runner) -> None:
    """Neither prompt nor answer."""
    secret = "Fischbrötchen"
    ask(runner, [ANNA], prompt=f"<|im_start|>user\n{secret}<|im_end|>\n")
    if not isinstance(load, LlamaServers):
        pytest.skip("has no log of its own")
    assert isinstance(runner, LlamaServer)
    written = "".join(path.read_text(errors="replace") for path in load.logs.glob("*.log"))
    assert "Fisch" not in written and "swim" not in written
