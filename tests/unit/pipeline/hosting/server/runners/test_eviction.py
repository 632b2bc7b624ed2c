"""What leaves memory: the least recently used, what does not fit, what was deleted."""

import pytest

from pipeline.hosting.server.errors import Refusal
from tests.unit.pipeline.hosting.server.runners.world import LIMIT_S, World
from tests.waiting import wait_for


def test_least_recently_used_adapter_is_left_out(world: World) -> None:
    """The limit is two of three adapters."""
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


def test_least_recently_used_base_is_evicted(world: World) -> None:
    """The limit is two bases."""
    world.limit(max_runners=2)
    loaded = {}
    for base in ("first", "second", "first", "third"):
        world.now += 1
        loaded[base] = world.ask(world.plain(base))
    assert loaded["second"].closed.wait(LIMIT_S)
    assert not loaded["first"].closed.is_set() and not loaded["third"].closed.is_set()


def test_deleted_adapter_leaves_memory_without_a_gap_for_others(world: World) -> None:
    """The old runner serves the others until one without the adapter is loaded."""
    anna, bert = world.persona("anna"), world.persona("bert")
    old = world.ask(anna)
    world.llama.gate.clear()
    world.scheduler.drop(world.store.delete(bert.name))
    wait_for(lambda: world.llama.attempts == 2)
    assert world.ask(anna) is old
    world.llama.gate.set()
    assert old.closed.wait(LIMIT_S)
    assert world.ask(anna).adapters == anna.adapters
    assert world.llama.attempts == 2


def test_deletion_of_the_only_adapter_causes_no_load(world: World) -> None:
    """The runner is closed without a successor."""
    anna = world.persona("anna")
    old = world.ask(anna)
    world.scheduler.drop(world.store.delete(anna.name))
    assert old.closed.wait(LIMIT_S)
    wait_for(lambda: not world.scheduler.loaded())
    assert world.llama.attempts == 1


def test_base_that_does_not_fit_twice_is_closed_before_its_successor(world: World) -> None:
    """New personas are loaded all the same, and later loads do not try to overlap."""
    world.llama.capacity = 1
    old = world.ask(world.persona("anna"))
    new = world.ask(world.persona("bert"))
    assert old.closed.is_set() and world.open_runners() == [new]
    attempts = world.llama.attempts
    world.ask(world.persona("cleo"))
    assert world.llama.attempts == attempts + 1
    assert not any(load.error for load in world.reports)


def test_second_base_evicts_the_first_if_both_do_not_fit(world: World) -> None:
    """Otherwise both would be in memory for a moment, even with a limit of one base."""
    world.limit(max_runners=1)
    world.llama.capacity = 1
    first = world.ask(world.persona("anna", "one"))
    second = world.ask(world.persona("bert", "two"))
    assert first.closed.is_set() and world.open_runners() == [second]


def test_base_deleted_during_its_load_leaves_memory(world: World) -> None:
    """The waiting request is served or refused; then the runner is closed."""
    plain = world.plain()
    world.llama.gate.clear()
    waiting = world.ask_in_thread(plain)
    wait_for(lambda: world.llama.attempts == 1)
    world.scheduler.drop(world.store.delete(plain.name))
    world.llama.gate.set()
    waiting.exception(LIMIT_S)
    wait_for(lambda: bool(world.llama.loads) and not world.open_runners())
    assert world.scheduler.loaded() == []


@pytest.mark.parametrize("base_stays", [True, False])
def test_request_with_an_outdated_manifest_is_refused(world: World, base_stays: bool) -> None:
    """Its files are gone: 503, and nothing is loaded."""
    anna = world.persona("anna")
    if base_stays:
        world.plain()
    world.scheduler.drop(world.store.delete(anna.name))
    with pytest.raises(Refusal, match="replaced or removed") as caught:
        world.ask(anna)
    assert caught.value.status == 503 and world.llama.attempts == 0
