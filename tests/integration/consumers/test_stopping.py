"""A service that stops says everything it has to say, and a restart repeats nothing."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tests.integration.conftest import MakeSettings
from tests.integration.service import Service
from tests.integration.wire import Wire
from tests.ledger.witness import new_request


def test_what_the_worker_says_last_goes_out_before_the_process_leaves(
    make_settings: MakeSettings,
    make_wire: Callable[[], Wire],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The worker stores an event while it stops; no other process may be there to publish it."""
    settings, wire = make_settings(tmp_path_factory.mktemp("last")), make_wire()
    service = Service(settings, wire)
    ledger = service.app.ledger

    def worker_that_ends_late(stack: object) -> SimpleNamespace:
        def run(stop: threading.Event) -> None:
            stop.wait()
            # Give a relay that stopped together with the rest the time to be gone.
            (relay,) = (t for t in threading.enumerate() if t.name == "relay")
            relay.join(1)
            ledger.accept([new_request(1, "LAST1")])

        return SimpleNamespace(run=run, wake=lambda: None)

    service.app._worker = worker_that_ends_late  # type: ignore[assignment, method-assign]
    with service:
        service.wait_until_ready()
    assert service.event("train-progress", lambda d: d["elder_id"] == "LAST1")["status"] == "queued"


def test_restart_handles_what_came_meanwhile_and_nothing_twice(
    make_settings: MakeSettings,
    make_wire: Callable[[], Wire],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings, wire = make_settings(tmp_path_factory.mktemp("restart")), make_wire()
    with Service(settings, wire) as first:
        first.answers("R1", ("Where were you born?", "In Stromness, by the harbour."))
        first.send("answers-updated", {"elder_id": "R1"})
        first.event("dataset-ready", lambda d: d["elder_id"] == "R1")
        first.wait_until_ready()
    wire.send(settings.topic("answers-updated"), b'{"elder_id": "R1", "elder_name": "again"}')
    with Service(settings, wire) as second:
        second.send("answers-updated", b"end", ("case", b"end"))
        second.dead_letter("answers-updated", "end")
        name = settings.topic("dataset-ready")
        seen = {
            (r.partition, r.offset): r
            for r in wire.all(lambda r: r.topic == name and r.key == b"R1")
        }
    assert len(seen) == 2
