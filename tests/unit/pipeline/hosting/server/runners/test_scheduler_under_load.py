"""Many requests while personas come and go and runners crash."""

import random
import threading
from functools import partial

import pytest

from pipeline.hosting.server.errors import Refusal
from tests.unit.pipeline.hosting.server.runners.world import LIMIT_S, World
from tests.waiting import wait_for


def _starts_again(world: World, before: int) -> bool:
    world.now += 1  # A crash may have caused a backoff.
    return len(world.llama.loads) > before


@pytest.mark.parametrize("seed", range(6))
def test_no_persona_answers_for_another_during_loads_crashes_and_deletions(
    world: World, seed: int
) -> None:
    """Eight clients, a limit of three adapters, eight personas that are created and deleted.

    `ask` checks each answer; the fake also fails if it is closed twice or during a request.
    """
    world.limit(max_adapters=3)
    dice = random.Random(seed)
    personas = [world.persona(f"p{i}") for i in range(8)]
    ended = threading.Event()

    def keep_asking(number: int) -> int:
        mine, answered = random.Random(1000 * seed + number), 0
        while not ended.is_set():
            try:
                world.ask(mine.choice(personas))
                answered += 1
            except Refusal as refusal:
                if not any(word in refusal.message for word in ("killed", "replaced or removed")):
                    raise
        return answered

    askers = [world.threads.submit(keep_asking, number) for number in range(8)]
    for step in range(40):
        loads = len(world.llama.loads)
        kind = dice.choice(("new", "new", "death", "removed"))
        if kind == "new":
            personas[dice.randrange(8)] = world.persona(f"new{step}")
        elif kind == "death" and world.llama.loads:
            world.llama.loads[-1].death = "killed"
        else:
            removed = dice.randrange(8)
            gone, personas[removed] = personas[removed], world.persona(f"new{step}")
            world.scheduler.drop(world.store.delete(gone.name))
        wait_for(partial(_starts_again, world, loads))
    ended.set()
    assert sum(asker.result(LIMIT_S) for asker in askers) > 40
