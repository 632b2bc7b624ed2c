"""The limits on adapters, context and embedders, and what each request gets within them."""

import hashlib

import pytest

from pipeline.hosting.server.errors import Refusal
from tests.fakes.llama_runner import FakeLlamaRunner
from tests.unit.pipeline.hosting.server.runners.world import CONTEXT, LIMIT_S, World
from tests.waiting import wait_for


@pytest.mark.parametrize("overlaps", [True, False])
def test_all_requests_are_served_with_a_limit_of_one_adapter(world: World, overlaps: bool) -> None:
    """Each change of persona is a load; no waiting request starves."""
    world.limit(max_adapters=1, overlaps=overlaps)
    personas = [world.persona(name) for name in ("anna", "bert", "cleo")]
    asked = [world.ask_in_thread(personas[i % 3]) for i in range(60)]
    for each in asked:
        assert len(each.result(LIMIT_S).adapters) == 1
    wait_for(lambda: sum(not r.closed.is_set() for r in world.llama.loads) == 1)


def test_without_overlap_the_old_runner_is_closed_before_the_new_one_is_loaded(
    world: World,
) -> None:
    """As in Ollama: a request for another persona waits for the requests in flight."""
    world.limit(max_adapters=1, overlaps=False)
    with world.scheduler.acquire(world.persona("anna"), CONTEXT) as old:
        waiting = world.ask_in_thread(world.persona("bert"))
        wait_for(lambda: not world.scheduler.loaded())
        assert world.llama.attempts == 1
    waiting.result(LIMIT_S)
    assert isinstance(old, FakeLlamaRunner) and old.closed.is_set()


def test_larger_context_needs_another_runner_up_to_the_limit(world: World) -> None:
    """A request for more than the limit gets the limit."""
    world.limit(context=1024, max_context=2048)
    anna = world.persona("anna")
    assert world.ask(anna, 512).context == 1024
    larger = world.ask(anna, 4096)
    assert larger.context == 2048
    assert world.ask(anna, 512) is larger


def test_embedder_is_counted_and_dropped_like_any_other(world: World) -> None:
    """It holds no adapters, and is closed when the base is deleted."""
    anna = world.persona("anna")
    with world.scheduler.acquire_embedder(anna) as runner:
        assert runner.adapters == () and runner.embed(["a"], None) == ([[1.0, 0.0]], 1)
        world.scheduler.drop(frozenset((anna.base,)))
        assert isinstance(runner, FakeLlamaRunner) and not runner.closed.is_set()
    assert runner.closed.wait(LIMIT_S)


def test_with_a_limit_of_one_the_runner_matches_the_request_exactly(world: World) -> None:
    """As in Ollama: a change between base and persona, or of the context, is a reload."""
    world.limit(max_adapters=1, overlaps=False)
    plain, anna = world.plain(), world.persona("anna")
    loaded = [world.ask(model).adapters for model in (plain, anna, plain)]
    assert loaded == [(), anna.adapters, ()]
    assert [world.ask(plain, tokens).context for tokens in (256, 512, 256)] == [256, 512, 256]
    assert world.ask(plain, 256) is world.llama.loads[-1]
    assert len(world.open_runners()) == 1


def test_embedder_is_one_more_runner(world: World) -> None:
    """It counts against the limit, is replaced after a crash, and is closed with the others."""
    world.limit(max_runners=1)
    anna, bert = world.persona("anna", "one"), world.persona("bert", "two")
    with world.scheduler.acquire_embedder(anna) as first:
        assert isinstance(first, FakeLlamaRunner)
    with world.scheduler.acquire_embedder(anna) as again:
        assert again is first
    first.death = "killed"
    with world.scheduler.acquire_embedder(anna) as second:
        assert second is not first and first.closed.wait(LIMIT_S)
        assert isinstance(second, FakeLlamaRunner)
    world.ask(bert)
    assert second.closed.wait(LIMIT_S)
    world.scheduler.close()
    with pytest.raises(Refusal, match="about to end"), world.scheduler.acquire_embedder(anna):
        pytest.fail("it must not be admitted")
    assert world.open_runners() == []


def test_adapters_of_a_base_come_newest_first(world: World) -> None:
    """The catalogue finds them by base, without looking at each of thousands of files."""
    made = [world.persona(f"p{number}", f"base{number % 2}") for number in range(6)]
    bases = {hashlib.sha256(each.base.encode()).hexdigest() for each in made}
    assert len(bases) == 2
    newest_first = [model.adapters[0] for model in reversed(made[::2])]
    assert world.store.adapters_of(made[0].base) == newest_first
    assert set(world.ask(made[0], CONTEXT).adapters) == set(newest_first)
