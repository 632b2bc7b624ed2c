"""What leaves memory: the least recently used, what does not fit, what was deleted."""

import pytest

from pipeline.hosting.server.errors import Refusal
from tests.unit.pipeline.hosting.server.runners.world import LIMIT_S, World
from tests.waiting import wait_for


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


def test_base_asked_for_longest_ago_leaves(world: World) -> None:
    """With room for two bases."""
    world.limit(max_runners=2)
    loaded = {}
    for base in ("first", "second", "first", "third"):
        world.now += 1
        loaded[base] = world.ask(world.plain(base))
    assert loaded["second"].closed.wait(LIMIT_S)
    assert not loaded["first"].closed.is_set() and not loaded["third"].closed.is_set()


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


def test_base_that_does_not_fit_twice_is_closed_before_its_successor(world: World) -> None:
    """New personas come in all the same; and the next one is not tried beside it any more."""
    world.llama.capacity = 1
    old = world.ask(world.persona("anna"))
    new = world.ask(world.persona("bert"))
    assert old.closed.is_set() and world.open_runners() == [new]
    attempts = world.llama.attempts
    world.ask(world.persona("cleo"))
    assert world.llama.attempts == attempts + 1
    assert not any(load.error for load in world.told)


def test_second_base_takes_the_place_of_the_first_where_both_do_not_fit(world: World) -> None:
    """Within the limit on bases they would overlap for a moment: not where there is no room."""
    world.limit(max_runners=1)
    world.llama.capacity = 1
    first = world.ask(world.persona("anna", "one"))
    second = world.ask(world.persona("bert", "two"))
    assert first.closed.is_set() and world.open_runners() == [second]


def test_base_removed_while_it_is_loaded_leaves_memory(world: World) -> None:
    """Whoever waited for it is answered or told; then it is gone."""
    plain = world.plain()
    world.llama.gate.clear()
    waiting = world.ask_in_thread(plain)
    wait_for(lambda: world.llama.attempts == 1)
    world.runners.drop(world.store.delete(plain.name))
    world.llama.gate.set()
    waiting.exception(LIMIT_S)
    wait_for(lambda: bool(world.llama.loads) and not world.open_runners())
    assert world.runners.loaded() == []


@pytest.mark.parametrize("base_stays", [True, False])
def test_model_replaced_since_it_was_read_is_told_so(world: World, base_stays: bool) -> None:
    """Its files are gone; nothing is started for it, and it is no fault of anybody's."""
    anna = world.persona("anna")
    if base_stays:
        world.plain()
    world.runners.drop(world.store.delete(anna.name))
    with pytest.raises(Refusal, match="replaced or removed") as caught:
        world.ask(anna)
    assert caught.value.status == 503 and world.llama.attempts == 0
