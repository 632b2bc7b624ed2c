"""Slots: a persona's cache is reused only for the same persona."""

import threading

from pipeline.hosting.server.runners.slots import Slots


def test_cache_is_reused_for_the_same_adapters_only() -> None:
    """Base, Anna and Bert share one slot: reuse only directly after oneself."""
    slots = Slots(1)
    seen = []
    for adapters in ((), ("anna",), ("anna",), ("bert",), (), ()):
        with slots.take(adapters) as (slot, is_known):
            seen.append((slot, is_known))
    assert seen == [(0, False), (0, False), (0, True), (0, False), (0, False), (0, True)]


def test_each_persona_returns_to_its_own_slot() -> None:
    """Three personas in three slots; a fourth takes the least recently used one."""
    slots = Slots(3)

    def take(name: str) -> tuple[int, bool]:
        with slots.take((name,)) as taken:
            return taken

    first = {name: take(name) for name in ("anna", "bert", "cleo")}
    assert {slot for slot, _ in first.values()} == {0, 1, 2}
    assert [take(name) for name in first] == [(slot, True) for slot, _ in first.values()]
    assert take("dora") == (first["anna"][0], False)
    assert take("bert") == (first["bert"][0], True)


def test_request_waits_while_no_slot_is_free() -> None:
    """A slot in use is not given out again."""
    slots = Slots(1)
    got = threading.Event()

    def wait_for_one() -> None:
        with slots.take(("bert",)):
            got.set()

    waiting = threading.Thread(target=wait_for_one)
    with slots.take(("anna",)):
        waiting.start()
        assert not got.wait(0.05)
    assert got.wait(5)
    waiting.join()
