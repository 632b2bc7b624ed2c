"""A role in a process of its own, so that its memory and its group membership can be seen."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from config.settings import Settings
from embedded.process import free_port
from tests.waiting import wait_for

CHAT_DEADLINE_S = 5.0
# A process that starts and joins its group needs a minute and more on a busy machine.
START_S = 120.0
CALL_LIMIT_S = 30.0
STOP_LIMIT_S = 30.0
# What the client fetches ahead, the connections and the allocator; a record has 300 bytes.
MEMORY_BYTES = 48 * 1024 * 1024


class Member:
    """`modelserver run ROLE` in a process of its own, seen from outside."""

    def __init__(self, process: psutil.Process, port: int, log: Path) -> None:
        self._process = process
        self._ops = f"http://127.0.0.1:{port}"
        self._log = log

    def wait_until_ready(self) -> None:
        """Wait until it has its partitions and reaches all servers; its log shows progress."""
        wait_for(
            self._is_ready,
            "the role is ready",
            progress=lambda: f"{self._log.stat().st_size} bytes of log",
            stall_s=START_S,
        )

    def _is_ready(self) -> bool:
        alive = self._process.status() != psutil.STATUS_ZOMBIE
        assert alive, self._log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(f"{self._ops}/readyz", timeout=CALL_LIMIT_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def rebalances(self) -> dict[str, float]:
        """Return how often partitions came and went, by kind of rebalance."""
        with urllib.request.urlopen(f"{self._ops}/metrics", timeout=CALL_LIMIT_S) as answer:
            lines = answer.read().decode().splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("modelserver_rebalances_total")
        }

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        return int(self._process.memory_info().rss)

    def logged(self, text: str) -> int:
        """Return how often its log contains a text."""
        return self._log.read_text(encoding="utf-8").count(text)


@contextmanager
def member_of(role: str, settings: Settings, folder: Path) -> Iterator[Member]:
    """Run a role under these settings while the context is open; its log goes to `folder`."""
    port, log = free_port(), folder / f"{role}.log"
    kafka = settings.kafka
    others = {k: v for k, v in os.environ.items() if not k.startswith("MODELSERVER_")}
    environment = others | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "MONGODB_URI": settings.mongodb.uri.get_secret_value(),
        "MONGODB_DATABASE": settings.mongodb.database,
        "OLLAMA_HOST": settings.ollama.host,
        "MODELSERVER_KAFKA__GROUP_PREFIX": kafka.group_prefix,
        "MODELSERVER_KAFKA__GROUP_PROTOCOL": kafka.group_protocol,
        "MODELSERVER_KAFKA__SESSION_TIMEOUT_MS": str(kafka.session_timeout_ms),
        "MODELSERVER_KAFKA__CHAT_FETCH_WAIT_MS": str(kafka.chat_fetch_wait_ms),
        "MODELSERVER_CHAT__DEADLINE_S": str(CHAT_DEADLINE_S),
        "MODELSERVER_OPS__PORT": str(port),
        "MODELSERVER_LOG__FILE": "false",
        "MODELSERVER_TOPICS": json.dumps(settings.topics),
        "MODELSERVER_DATA_DIR": str(settings.data_dir),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", role],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Member(psutil.Process(process.pid), port, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
