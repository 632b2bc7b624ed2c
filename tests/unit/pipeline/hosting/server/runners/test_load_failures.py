"""Loads that fail: which requests are refused, and that all others are served."""

import threading

import pytest

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.capacity import Capacity
from pipeline.hosting.server.runners.load_report import LoadReport
from pipeline.hosting.server.runners.scheduler import Scheduler
from tests.unit.pipeline.hosting.server.runners.world import LIMIT_S, World
from tests.waiting import wait_for


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


def test_damaged_adapter_that_comes_first_silences_nobody(world: World) -> None:
    """Nothing is loaded yet, and the others wait behind it: it alone is refused."""
    broken, anna = world.persona("broken"), world.persona("anna")
    world.llama.damaged = set(broken.adapters)
    world.llama.gate.clear()
    first = world.ask_in_thread(broken)
    wait_for(lambda: world.llama.attempts == 1)
    others = [world.ask_in_thread(each) for each in (anna, world.persona("bert"), world.plain())]
    wait_for(lambda: world.runners.waiting() == 4)
    world.llama.gate.set()
    with pytest.raises(Refusal, match="cannot load") as caught:
        first.result(LIMIT_S)
    assert caught.value.status == 500
    for each in others:
        assert each.result(LIMIT_S).base == others[0].result(LIMIT_S).base
    assert not any(load.is_down for load in world.told)


def test_damaged_base_refuses_all_who_wait_after_one_more_try(world: World) -> None:
    """Without adapters; thirty personas of it cost no thirty starts."""
    personas = [world.persona(f"p{number}") for number in range(30)]
    world.llama.damaged = {personas[0].base}
    world.llama.gate.clear()
    waiting = [world.ask_in_thread(each) for each in personas]
    wait_for(lambda: world.runners.waiting() == 30)
    world.llama.gate.set()
    for each in waiting:
        with pytest.raises(Refusal, match="cannot load"):
            each.result(LIMIT_S)
    assert world.llama.attempts <= 3
    wait_for(lambda: [load.is_down for load in world.told] == [True])


def test_fault_of_whoever_watches_blocks_no_base(world: World) -> None:
    """The request that waits is told or answered, and so is the next one."""

    def fail(_load: LoadReport) -> None:
        raise ZeroDivisionError

    world.runners = Scheduler(
        world.store, world.llama, Capacity(), threads=1, clock=lambda: world.now, on_load=fail
    )
    anna = world.persona("anna")
    world.ask(anna)
    bert = world.persona("bert")
    # The fault may be heard of by the next one who waits; then its start is put off.
    wait_for(lambda: not any(t.name.startswith("start-") for t in threading.enumerate()))
    assert world.ask(bert) is not None


def test_damaged_adapter_ends_nobody_where_the_base_fits_twice(world: World) -> None:
    """What answers goes on, and the one loaded to find out is closed again."""
    runner = world.ask(world.persona("anna"))
    broken = world.persona("broken")
    world.llama.damaged = set(broken.adapters)
    with pytest.raises(Refusal):
        world.ask(broken)
    wait_for(lambda: world.open_runners() == [runner])
