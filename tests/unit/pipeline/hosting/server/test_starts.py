"""Starts that fail, or find no room: who is refused, who gives way, and that nobody waits on."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.hosting.server.answers import Answer, Question
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.options import Options
from pipeline.hosting.server.rendering import compile_template
from pipeline.hosting.server.residency import Load
from pipeline.hosting.server.runners import Residency, Runners
from pipeline.hosting.server.shapes import Turn
from tests.fakes.runner import FakeRunner
from tests.unit.pipeline.hosting.server.runner_world import CONTEXT, LIMIT_S, World
from tests.waiting import wait_for


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path)
    opened.limit()
    try:
        yield opened
    finally:
        opened.close()


def open_runners(world: World) -> list[FakeRunner]:
    return [each for each in world.llama.loads if not each.closed.is_set()]


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


def test_base_that_does_not_fit_twice_is_closed_before_its_successor(world: World) -> None:
    """New personas come in all the same; and the next one is not tried beside it any more."""
    world.llama.capacity = 1
    old = world.ask(world.persona("anna"))
    new = world.ask(world.persona("bert"))
    assert old.closed.is_set() and open_runners(world) == [new]
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
    assert first.closed.is_set() and open_runners(world) == [second]


def test_damaged_adapter_ends_nobody_where_the_base_fits_twice(world: World) -> None:
    """What answers goes on, and the one loaded to find out is closed again."""
    runner = world.ask(world.persona("anna"))
    broken = world.persona("broken")
    world.llama.damaged = set(broken.adapters)
    with pytest.raises(Refusal):
        world.ask(broken)
    wait_for(lambda: open_runners(world) == [runner])


def test_fault_of_whoever_watches_blocks_no_base(world: World) -> None:
    """The request that waits is told or answered, and so is the next one."""

    def fail(_load: Load) -> None:
        raise ZeroDivisionError

    world.runners = Runners(
        world.store, world.llama, Residency(), threads=1, clock=lambda: world.now, on_load=fail
    )
    anna = world.persona("anna")
    world.ask(anna)
    bert = world.persona("bert")
    # The fault may be heard of by the next one who waits; then its start is put off.
    wait_for(lambda: not any(t.name.startswith("start-") for t in threading.enumerate()))
    assert world.ask(bert) is not None


def test_base_removed_while_it_is_loaded_leaves_memory(world: World) -> None:
    """Whoever waited for it is answered or told; then it is gone."""
    plain = world.plain()
    world.llama.gate.clear()
    waiting = world.ask_in_thread(plain)
    wait_for(lambda: world.llama.attempts == 1)
    world.runners.drop(world.store.delete(plain.name))
    world.llama.gate.set()
    waiting.exception(LIMIT_S)
    wait_for(lambda: bool(world.llama.loads) and not open_runners(world))
    assert world.runners.loaded() == []


def test_one_adapter_at_a_time_means_exactly_what_was_asked_for(world: World) -> None:
    """As in Ollama: the base after a persona, and another context either way, are reloads."""
    world.limit(max_adapters=1, overlaps=False)
    plain, anna = world.plain(), world.persona("anna")
    loaded = [world.ask(model).adapters for model in (plain, anna, plain)]
    assert loaded == [(), anna.adapters, ()]
    assert [world.ask(plain, tokens).context for tokens in (256, 512, 256)] == [256, 512, 256]
    assert world.ask(plain, 256) is world.llama.loads[-1]
    assert len(open_runners(world)) == 1


def test_embedder_is_one_more_runner(world: World) -> None:
    """Counted, replaced when it is dead, closed with the others, and refused afterwards."""
    world.limit(max_runners=1)
    anna, bert = world.persona("anna", "one"), world.persona("bert", "two")
    with world.runners.acquire_embedder(anna) as first:
        assert isinstance(first, FakeRunner)
    with world.runners.acquire_embedder(anna) as again:
        assert again is first
    first.death = "killed"
    with world.runners.acquire_embedder(anna) as second:
        assert second is not first and first.closed.wait(LIMIT_S)
        assert isinstance(second, FakeRunner)
    world.ask(bert)
    assert second.closed.wait(LIMIT_S)
    world.runners.close()
    with pytest.raises(Refusal, match="about to end"), world.runners.acquire_embedder(anna):
        pytest.fail("it must not be admitted")
    assert open_runners(world) == []


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


def test_prompt_is_fitted_to_what_the_runner_has(world: World) -> None:
    """And not to the larger context that was asked for: the persona's own words stay whole."""
    world.limit(context=120, max_context=120)
    template = compile_template("{{ .System }}|{{ .Prompt }}|{{ .Response }}")
    said = [
        Turn(role=role, content=f"{number} {'word ' * 5}")
        for number in range(10)
        for role in ("user", "assistant")
    ]
    turns = (Turn(role="system", content="You are Anna."), *said)
    question = Question(world.plain(), Options(num_ctx=4096), None, turns, template, True, None)

    async def render() -> str:
        with ThreadPoolExecutor(1) as executor:
            return await Answer(world.runners, question, in_pieces=False).render(executor)

    prompt = asyncio.run(render())
    assert len(prompt) <= 120
    assert "You are Anna." in prompt and "9 word" in prompt


def test_company_of_thousands_costs_no_look_at_each_file(world: World) -> None:
    """Adapters are found by their base, the newest first."""
    made = [world.persona(f"p{number}", f"base{number % 2}") for number in range(6)]
    bases = {hashlib.sha256(each.base.encode()).hexdigest() for each in made}
    assert len(bases) == 2
    newest_first = [model.adapters[0] for model in reversed(made[::2])]
    assert world.store.adapters_of(made[0].base) == newest_first
    assert set(world.ask(made[0], CONTEXT).adapters) == set(newest_first)
