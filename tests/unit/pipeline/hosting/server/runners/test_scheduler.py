"""Runners are replaced without a gap and drained."""

from contextlib import ExitStack

import pytest

from pipeline.hosting.server.errors import Refusal
from tests.fakes.llama_runner import FakeLlamaRunner
from tests.unit.pipeline.hosting.server.runners.world import CONTEXT, LIMIT_S, World
from tests.waiting import wait_for


def test_personas_of_one_base_share_a_runner(world: World) -> None:
    """The first load has all known adapters; it serves the base without adapters, too."""
    anna, bert = world.persona("anna"), world.persona("bert")
    runner = world.ask(anna)
    assert world.ask(bert) is runner
    assert world.ask(world.plain()) is runner
    assert world.llama.attempts == 1
    assert world.scheduler.loaded_adapters() == 2


def test_new_persona_is_loaded_without_a_gap_for_others(world: World) -> None:
    """The old runner serves the others during the load, and is closed afterwards."""
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


def test_requests_that_wait_during_a_load_share_the_next_one(world: World) -> None:
    """Three new personas that are requested during a load need one further load."""
    world.ask(world.persona("anna"))
    world.llama.gate.clear()
    first = world.ask_in_thread(world.persona("bert"))
    wait_for(lambda: world.llama.attempts == 2)
    others = [world.ask_in_thread(world.persona(name)) for name in ("cleo", "dora", "emil")]
    wait_for(lambda: world.scheduler.waiting() == 4)
    world.llama.gate.set()
    first.result(LIMIT_S)
    assert len({id(each.result(LIMIT_S)) for each in others}) == 1
    assert world.llama.attempts == 3


def test_requests_in_flight_end_on_the_runner_they_began_on(world: World) -> None:
    """A replaced runner is closed after its last request, not before."""
    anna = world.persona("anna")
    with ExitStack() as stack:
        old = stack.enter_context(world.scheduler.acquire(anna, CONTEXT))
        second = stack.enter_context(world.scheduler.acquire(anna, CONTEXT))
        assert old is second
        new = world.ask(world.persona("bert"))
        assert isinstance(old, FakeLlamaRunner)
        assert new is not old and not old.closed.is_set()
    assert old.closed.wait(LIMIT_S)


def test_request_that_takes_longer_than_the_drain_is_cut_off(world: World) -> None:
    """An endless request does not keep a second copy of the base in memory."""
    world.limit(drain_s=0.05)
    with world.scheduler.acquire(world.persona("anna"), CONTEXT) as old:
        world.ask(world.persona("bert"))
        assert isinstance(old, FakeLlamaRunner)
        assert old.closed.wait(LIMIT_S)


def test_close_refuses_new_requests_and_waits_for_those_in_flight(world: World) -> None:
    """Requests that wait for a load are refused, too."""
    anna = world.persona("anna")
    with ExitStack() as stack:
        stack.enter_context(world.scheduler.acquire(anna, CONTEXT))
        world.llama.gate.clear()
        waiting = world.ask_in_thread(world.persona("bert"))
        wait_for(lambda: world.llama.attempts == 2)
        closing = world.threads.submit(world.scheduler.close)
        with pytest.raises(Refusal, match="about to end"):
            waiting.result(LIMIT_S)
        with pytest.raises(Refusal, match="about to end"):
            world.ask(anna)
        assert not closing.done()
        world.llama.gate.set()
    closing.result(LIMIT_S)
    assert len(world.llama.loads) == 2
    assert all(each.closed.is_set() for each in world.llama.loads)
