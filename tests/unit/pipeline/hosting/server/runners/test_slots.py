"""The embedded Ollama's slots: what a persona left behind is for that persona alone."""

import threading

from pipeline.hosting.server.runners.slots import Slots


def test_slot_is_gone_on_from_by_the_same_adapters_only() -> None:
    """Base, Anna, Bert in one slot: each starts anew until it follows itself."""
    slots = Slots(1)
    seen = []
    for adapters in ((), ("anna",), ("anna",), ("bert",), (), ()):
        with slots.take(adapters) as (slot, is_known):
            seen.append((slot, is_known))
    assert seen == [(0, False), (0, False), (0, True), (0, False), (0, False), (0, True)]


def test_each_persona_returns_to_its_own_slot_while_there_is_one() -> None:
    """Three personas in three slots; a fourth takes the one used longest ago."""
    slots = Slots(3)

    def take(name: str) -> tuple[int, bool]:
        with slots.take((name,)) as taken:
            return taken

    first = {name: take(name) for name in ("anna", "bert", "cleo")}
    assert {slot for slot, _ in first.values()} == {0, 1, 2}
    assert [take(name) for name in first] == [(slot, True) for slot, _ in first.values()]
    assert take("dora") == (first["anna"][0], False)
    assert take("bert") == (first["bert"][0], True)


def test_who_finds_no_slot_free_waits_for_one() -> None:
    """A slot that is in use is nobody else's."""
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
