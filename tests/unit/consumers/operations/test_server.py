"""The operators' server: alive, ready, measured."""

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from config.metrics import Metrics
from config.settings import OpsSettings
from consumers.operations.health import Health
from consumers.operations.server import OpsServer
from schemas.errors import StoreUnavailable


class Page:
    """A running server and what it rests on."""

    def __init__(self) -> None:
        self.health = Health(stale_after_s=30)
        self.metrics = Metrics()
        self.server = OpsServer(OpsSettings(port=0), self.metrics, self.health)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.server.port}{path}", trust_env=False)


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page()
    with made.server:
        yield made


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_loop_that_polls_is_alive(page: Page, path: str) -> None:
    page.health.watch_loop("chat", time.time, lambda: False)
    answer = page.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_loop_that_stopped_polling_is_named(page: Page) -> None:
    page.health.watch_loop("answers", time.time, lambda: True)
    page.health.watch_loop("chat", lambda: time.time() - 31, lambda: True)
    answer = page.get("/livez")
    assert answer.status_code == 503
    assert list(answer.json()["faults"]) == ["chat"]


def test_what_kafka_forbids_is_at_readiness_until_it_is_granted(page: Page) -> None:
    refused: list[str | None] = ["grant Read"]
    page.health.watch_loop("chat", time.time, lambda: True, lambda: refused[0])
    answer = page.get("/readyz")
    assert (answer.status_code, answer.json()["faults"]) == (503, {"chat": "grant Read"})
    assert page.get("/livez").status_code == 200, "a restart would not help"
    refused[0] = None
    assert page.get("/readyz").status_code == 200


def test_thread_that_has_ended_is_named(page: Page) -> None:
    """A worker or relay that is gone must not look alive because the loops still poll."""
    page.health.watch_loop("training", time.time, lambda: True)
    release = threading.Event()
    worker = threading.Thread(target=release.wait, name="worker")
    worker.start()
    page.health.watch_thread(worker)
    assert page.get("/livez").status_code == 200
    release.set()
    worker.join()
    answer = page.get("/livez")
    assert answer.status_code == 503
    assert list(answer.json()["faults"]) == ["worker"]


def test_thread_that_is_not_started_yet_is_no_fault(page: Page) -> None:
    """A lane begins when its role does."""
    page.health.watch_thread(threading.Thread(target=lambda: None, name="lane"))
    assert page.get("/livez").status_code == 200


def test_assigned_with_all_dependencies_is_ready(page: Page) -> None:
    page.health.watch_loop("chat", time.time, lambda: True)
    page.health.require("mongodb", lambda: None)
    assert page.get("/readyz").status_code == 200


def test_what_is_missing_for_readiness_is_named_and_life_goes_on(page: Page) -> None:
    def down() -> None:
        raise StoreUnavailable

    page.health.watch_loop("chat", time.time, lambda: False)
    page.health.require("mongodb", down)
    answer = page.get("/readyz")
    assert answer.status_code == 503
    assert set(answer.json()["faults"]) == {"chat", "mongodb"}
    assert page.get("/livez").status_code == 200


def test_dependency_is_not_asked_at_every_probe(page: Page) -> None:
    asked: list[int] = []
    page.health.require("mongodb", lambda: asked.append(1))
    for _ in range(5):
        page.get("/readyz")
    assert len(asked) == 1


def test_metrics_are_served_under_our_prefix_and_without_elders(page: Page) -> None:
    page.metrics.consumed.labels("chat-requests", "answered").inc()
    text = page.get("/metrics").text
    assert (
        'modelserver_messages_consumed_total{outcome="answered",topic="chat-requests"} 1.0' in text
    )
    assert "elder" not in "".join(
        line for line in text.splitlines() if not line.startswith("# HELP")
    )


def test_other_pages_are_not_there(page: Page) -> None:
    assert page.get("/").status_code == 404
    assert page.get("/../etc/passwd").status_code == 404
