"""The host role without a real llama-server: what it says when it cannot serve, and how it ends."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from config.metrics import Metrics
from config.settings import HostSettings, Settings
from consumers.host import HostEnded, HostServer, running_host
from tests.unit.pipeline.hosting.server.models.gguf_blobs import BASE

# What `find_llama_server` looks for; every start of it fails.
PROGRAM = """#!/bin/sh
if [ "$1" = --help ]; then
    echo --lora-init-without-apply --no-kv-unified --no-cache-idle-slots --swa-full --no-webui
    echo --no-slots --offline --cache-ram --ctx-checkpoints --cache-reuse --sse-ping-interval
    echo --log-verbosity --fit
    exit 0
fi
exit 3
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    program = tmp_path / "llama-server"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return Settings(data_dir=tmp_path, host=HostSettings(command=str(program), port=0, start_s=20))


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_host_is_not_ready_while_the_last_start_failed(
    settings: Settings, stop: threading.Event
) -> None:
    """It lives and says why; before the first start nothing is known against it."""
    with (
        running_host(settings, Metrics(), stop) as address,
        httpx.Client(base_url=address, trust_env=False, timeout=60) as client,
    ):
        assert client.get("/readyz").status_code == 200
        digest = f"sha256:{hashlib.sha256(BASE).hexdigest()}"
        client.post(f"/api/blobs/{digest}", content=BASE).raise_for_status()
        made = {"model": "base", "files": {"b.gguf": digest}, "stream": False}
        client.post("/api/create", json=made).raise_for_status()
        asked = {"model": "base", "messages": [{"role": "user", "content": "Hello"}]}
        assert client.post("/api/chat", json=asked).status_code == 500
        ready = client.get("/readyz")
        assert ready.status_code == 503 and "cannot load" in ready.json()["reason"]
        assert client.get("/livez").status_code == 200


def test_host_whose_server_ends_by_itself_is_a_failure(
    settings: Settings, stop: threading.Event
) -> None:
    """The role stops, and the exit code is not 0."""
    server = HostServer(settings, Metrics(), stop)
    server.start()
    server.check()
    server._server.should_exit = True
    assert stop.wait(60)
    with pytest.raises(HostEnded):
        server.check()
    server.close()


def test_host_that_does_not_come_up_is_a_failure(settings: Settings, stop: threading.Event) -> None:
    """`start` raises instead of returning."""
    server = HostServer(settings, Metrics(), stop)
    server._socket.close()
    with pytest.raises(HostEnded):
        server.start()
    server.close()
