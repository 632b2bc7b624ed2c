"""Which llama.cpp are loaded: shared, replaced without a gap, dropped when idle."""

from contextlib import ExitStack

import pytest

from pipeline.hosting.server.failures import Refusal
from tests.fakes.runner import FakeRunner
from tests.unit.pipeline.hosting.server.runner_world import CONTEXT, LIMIT_S, World
from tests.waiting import wait_for


def test_personas_of_one_base_share_a_runner(world: World) -> None:
    """All known adapters come with the first start; the base itself is asked there, too."""
    anna, bert = world.persona("anna"), world.persona("bert")
    runner = world.ask(anna)
    assert world.ask(bert) is runner
    assert world.ask(world.plain()) is runner
    assert world.llama.attempts == 1
    assert world.runners.loaded_adapters() == 2


def test_new_persona_comes_in_without_a_gap(world: World) -> None:
    """While hers is being loaded the others are answered; then the old runner is closed."""
    anna = world.persona("anna")
    old = world.ask(anna)
    bert = world.persona("bert")
    world.llama.gate.clear()
    waiting = world.ask_in_thread(bert)
    wait_for(lambda: world.llama.attempts == 2)
    assert world.ask(anna) is old
    assert not waiting.done()
    world.llama.gate.set()
    new = waiting.result(LIMIT_S)
    assert new is not old
    assert world.ask(anna) is new
    assert old.closed.wait(LIMIT_S)
    assert not new.closed.is_set()


def test_several_new_ones_that_wait_come_with_one_start(world: World) -> None:
    """Those who come while an instance starts are taken along by the next, all of them."""
    world.ask(world.persona("anna"))
    world.llama.gate.clear()
    first = world.ask_in_thread(world.persona("bert"))
    wait_for(lambda: world.llama.attempts == 2)
    others = [world.ask_in_thread(world.persona(name)) for name in ("cleo", "dora", "emil")]
    wait_for(lambda: world.runners.waiting() == 4)
    world.llama.gate.set()
    first.result(LIMIT_S)
    assert len({id(each.result(LIMIT_S)) for each in others}) == 1
    assert world.llama.attempts == 3


def test_requests_under_way_end_on_the_runner_they_began_on(world: World) -> None:
    """A replaced runner is closed when its last request has left, and not before."""
    anna = world.persona("anna")
    with ExitStack() as stack:
        old = stack.enter_context(world.runners.acquire(anna, CONTEXT))
        second = stack.enter_context(world.runners.acquire(anna, CONTEXT))
        assert old is second
        new = world.ask(world.persona("bert"))
        assert isinstance(old, FakeRunner)
        assert new is not old and not old.closed.is_set()
    assert old.closed.wait(LIMIT_S)


def test_request_that_takes_longer_than_the_drain_is_cut_off(world: World) -> None:
    """A request without end does not keep a second base in memory for ever."""
    world.limit(drain_s=0.05)
    with world.runners.acquire(world.persona("anna"), CONTEXT) as old:
        world.ask(world.persona("bert"))
        assert isinstance(old, FakeRunner)
        assert old.closed.wait(LIMIT_S)


def test_adapters_asked_for_longest_ago_leave(world: World) -> None:
    """With room for two of three."""
    world.limit(max_adapters=2)
    anna, bert = world.persona("anna"), world.persona("bert")
    for model in (anna, bert, anna):
        world.now += 1
        world.ask(model)
    assert world.llama.attempts == 1
    world.now += 1
    cleo = world.persona("cleo")
    assert set(world.ask(cleo).adapters) == {*cleo.adapters, *anna.adapters}
    world.now += 1
    assert set(world.ask(bert).adapters) == {*bert.adapters, *cleo.adapters}


@pytest.mark.parametrize("overlaps", [True, False])
def test_everybody_is_served_where_one_adapter_is_all_there_is_room_for(
    world: World, overlaps: bool
) -> None:
    """Each change is a load; nobody who waits is passed over by those who come later."""
    world.limit(max_adapters=1, overlaps=overlaps)
    personas = [world.persona(name) for name in ("anna", "bert", "cleo")]
    asked = [world.ask_in_thread(personas[i % 3]) for i in range(60)]
    for each in asked:
        assert len(each.result(LIMIT_S).adapters) == 1
    wait_for(lambda: sum(not r.closed.is_set() for r in world.llama.loads) == 1)


def test_without_overlap_the_old_runner_is_closed_before_the_new_one_is_loaded(
    world: World,
) -> None:
    """As Ollama does: whoever asks for another persona waits for the answers under way."""
    world.limit(max_adapters=1, overlaps=False)
    with world.runners.acquire(world.persona("anna"), CONTEXT) as old:
        waiting = world.ask_in_thread(world.persona("bert"))
        wait_for(lambda: not world.runners.loaded())
        assert world.llama.attempts == 1
    waiting.result(LIMIT_S)
    assert isinstance(old, FakeRunner) and old.closed.is_set()


def test_damaged_adapter_silences_nobody_else(world: World) -> None:
    """Who asks for it is told; the others keep their runner, and a start without it works."""
    world.limit()
    anna, broken = world.persona("anna"), world.persona("broken")
    world.llama.damaged = set(broken.adapters)
    runner = world.ask(anna)
    assert runner.adapters == anna.adapters
    with pytest.raises(Refusal) as caught:
        world.ask(broken)
    assert caught.value.status == 500
    assert world.ask(anna) is runner
    bert = world.persona("bert")
    assert set(world.ask(bert).adapters) == {*anna.adapters, *bert.adapters}
    assert [load.is_down for load in world.told] == [False, False, False]
    assert [bool(load.error) for load in world.told] == [False, True, False]


def test_start_that_fails_again_and_again_is_put_off_with_its_reason(world: World) -> None:
    """At once the second time, then after 1 s, 2 s, …; all who wait are told."""
    world.limit()
    anna = world.persona("anna")
    world.llama.damaged = {anna.base}
    for _ in range(2):
        with pytest.raises(Refusal, match="cannot load") as caught:
            world.ask(anna)
        assert caught.value.status == 500
    attempts = world.llama.attempts
    with pytest.raises(Refusal, match=r"2 failures in a row.*cannot load") as put_off:
        world.ask(anna)
    assert put_off.value.status == 503
    assert world.llama.attempts == attempts
    world.llama.damaged = set()
    world.now += 1.1
    world.ask(anna)
    wait_for(lambda: len(world.told) == 3)
    assert [bool(load.error) for load in world.told] == [True, True, False]


def test_dead_runner_is_replaced_by_the_next_request(world: World) -> None:
    """And one that dies each time soon after its start is waited for."""
    anna = world.persona("anna")
    first = world.ask(anna)
    first.death = "killed"
    second = world.ask(anna)
    assert second is not first and first.closed.wait(LIMIT_S)
    second.death = "killed once more"
    with pytest.raises(Refusal, match="killed once more") as caught:
        world.ask(anna)
    assert caught.value.status == 503
    world.now += 1.1
    third = world.ask(anna)
    world.now += 3600
    third.death = "killed after an hour"
    assert world.ask(anna) is not third


def test_removed_adapter_leaves_memory_and_nobody_waits_for_it(world: World) -> None:
    """The others answer from the old runner until one without it is there."""
    anna, bert = world.persona("anna"), world.persona("bert")
    old = world.ask(anna)
    world.llama.gate.clear()
    world.runners.drop(world.store.delete(bert.name))
    wait_for(lambda: world.llama.attempts == 2)
    assert world.ask(anna) is old
    world.llama.gate.set()
    assert old.closed.wait(LIMIT_S)
    assert world.ask(anna).adapters == anna.adapters
    assert world.llama.attempts == 2


def test_removed_adapter_that_was_alone_leaves_without_a_successor(world: World) -> None:
    """Nothing is loaded for nobody."""
    anna = world.persona("anna")
    old = world.ask(anna)
    world.runners.drop(world.store.delete(anna.name))
    assert old.closed.wait(LIMIT_S)
    wait_for(lambda: not world.runners.loaded())
    assert world.llama.attempts == 1


def test_base_asked_for_longest_ago_leaves(world: World) -> None:
    """With room for two bases."""
    world.limit(max_runners=2)
    loaded = {}
    for base in ("first", "second", "first", "third"):
        world.now += 1
        loaded[base] = world.ask(world.plain(base))
    assert loaded["second"].closed.wait(LIMIT_S)
    assert not loaded["first"].closed.is_set() and not loaded["third"].closed.is_set()


def test_larger_context_is_another_runner_up_to_the_limit(world: World) -> None:
    """Who asks for more than there may be gets what there is."""
    world.limit(context=1024, max_context=2048)
    anna = world.persona("anna")
    assert world.ask(anna, 512).context == 1024
    larger = world.ask(anna, 4096)
    assert larger.context == 2048
    assert world.ask(anna, 512) is larger


def test_embedder_is_counted_and_dropped_like_any_other(world: World) -> None:
    """It holds the base alone, and ends with it."""
    anna = world.persona("anna")
    with world.runners.acquire_embedder(anna) as runner:
        assert runner.adapters == () and runner.embed(["a"], None) == ([[1.0, 0.0]], 1)
        world.runners.drop(frozenset((anna.base,)))
        assert isinstance(runner, FakeRunner) and not runner.closed.is_set()
    assert runner.closed.wait(LIMIT_S)


def test_end_refuses_new_requests_and_waits_for_those_under_way(world: World) -> None:
    """Whoever waits for a start is told, too."""
    anna = world.persona("anna")
    with ExitStack() as stack:
        stack.enter_context(world.runners.acquire(anna, CONTEXT))
        world.llama.gate.clear()
        waiting = world.ask_in_thread(world.persona("bert"))
        wait_for(lambda: world.llama.attempts == 2)
        closing = world.threads.submit(world.runners.close)
        with pytest.raises(Refusal, match="about to end"):
            waiting.result(LIMIT_S)
        with pytest.raises(Refusal, match="about to end"):
            world.ask(anna)
        assert not closing.done()
        world.llama.gate.set()
    closing.result(LIMIT_S)
    assert len(world.llama.loads) == 2
    assert all(each.closed.is_set() for each in world.llama.loads)
