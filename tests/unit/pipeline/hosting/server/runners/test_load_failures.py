"""Loads that fail: which requests are refused, and that all others are served."""

import threading

import pytest

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.capacity import Capacity
from pipeline.hosting.server.runners.load_report import LoadReport
from pipeline.hosting.server.runners.scheduler import Scheduler
from tests.unit.pipeline.hosting.server.runners.world import LIMIT_S, World
from tests.waiting import wait_for


def test_damaged_adapter_affects_no_other_persona(world: World) -> None:
    """Only its own request fails; the others keep their runner, and the next load leaves it out."""
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
    assert [load.is_down for load in world.reports] == [False, False, False]
    assert [bool(load.error) for load in world.reports] == [False, True, False]


def test_repeated_load_failure_backs_off_and_names_its_reason(world: World) -> None:
    """The second attempt is immediate, the third waits 1 s; requests meanwhile get 503."""
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
    wait_for(lambda: len(world.reports) == 3)
    assert [bool(load.error) for load in world.reports] == [True, True, False]


def test_crashed_runner_is_replaced_by_the_next_request(world: World) -> None:
    """Repeated crashes soon after the load back off."""
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


def test_damaged_adapter_in_the_first_load_affects_no_other_persona(world: World) -> None:
    """Nothing is loaded yet and the others wait behind it; only its request is refused."""
    broken, anna = world.persona("broken"), world.persona("anna")
    world.llama.damaged = set(broken.adapters)
    world.llama.gate.clear()
    first = world.ask_in_thread(broken)
    wait_for(lambda: world.llama.attempts == 1)
    others = [world.ask_in_thread(each) for each in (anna, world.persona("bert"), world.plain())]
    wait_for(lambda: world.scheduler.waiting() == 4)
    world.llama.gate.set()
    with pytest.raises(Refusal, match="cannot load") as caught:
        first.result(LIMIT_S)
    assert caught.value.status == 500
    for each in others:
        assert each.result(LIMIT_S).base == others[0].result(LIMIT_S).base
    assert not any(load.is_down for load in world.reports)


def test_damaged_base_refuses_all_waiting_requests(world: World) -> None:
    """Thirty personas of the base do not cause thirty loads."""
    personas = [world.persona(f"p{number}") for number in range(30)]
    world.llama.damaged = {personas[0].base}
    world.llama.gate.clear()
    waiting = [world.ask_in_thread(each) for each in personas]
    wait_for(lambda: world.scheduler.waiting() == 30)
    world.llama.gate.set()
    for each in waiting:
        with pytest.raises(Refusal, match="cannot load"):
            each.result(LIMIT_S)
    assert world.llama.attempts <= 3
    wait_for(lambda: [load.is_down for load in world.reports] == [True])


def test_fault_of_the_load_observer_blocks_no_base(world: World) -> None:
    """The waiting request and the next one are served or refused."""

    def fail(_load: LoadReport) -> None:
        raise ZeroDivisionError

    world.scheduler = Scheduler(
        world.store, world.llama, Capacity(), threads=1, clock=lambda: world.now, on_load=fail
    )
    anna = world.persona("anna")
    world.ask(anna)
    bert = world.persona("bert")
    # The fault may refuse the next waiting request, too; wait until the thread has ended.
    wait_for(lambda: not any(t.name.startswith("load-") for t in threading.enumerate()))
    assert world.ask(bert) is not None


def test_damaged_adapter_closes_no_runner_if_the_base_fits_twice(world: World) -> None:
    """The current runner stays; the one loaded for the attempt is closed."""
    runner = world.ask(world.persona("anna"))
    broken = world.persona("broken")
    world.llama.damaged = set(broken.adapters)
    with pytest.raises(Refusal):
        world.ask(broken)
    wait_for(lambda: world.open_runners() == [runner])
