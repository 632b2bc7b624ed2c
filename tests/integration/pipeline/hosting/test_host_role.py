"""`modelserver run host` on a real llama-server: many personas on one base, and what goes wrong.

Every answer under load is compared with that persona's answer when she is asked alone. One thread
asks for one persona: llama.cpp puts requests of the same one into one batch, and adds up in another
order there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import ollama
import psutil
import pytest

from config.settings import OllamaSettings
from embedded.bases import install_base
from embedded.process import free_port
from pipeline.hosting.ollama import OllamaHost
from pipeline.hosting.port import ServedModel
from schemas.errors import OllamaUnavailable
from tests.contract.pipeline.hosting.ollama_server import CHATML
from tests.models.random_weights import write_random_adapter
from tests.servers.model_hosts import HOSTS, FoundHost, find_llama_server, host_process
from tests.waiting import wait_for

LIMIT_S = 120.0
QUESTION = [{"role": "user", "content": "Who taught you to swim?"}]
OPTIONS = {"temperature": 0, "seed": 1, "num_predict": 3, "num_ctx": 512}
SECRET = "Fischbrötchen"


class HostUnderTest:
    """The role in a process of its own, and a host client for it."""

    def __init__(self, folder: Path, program: Path, **settings: str) -> None:
        self.folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        host = {"THREADS": "1", "NUM_CTX": "512", "DRAIN_S": "60"} | settings
        self.process = host_process(
            FoundHost(HOSTS["llama-server"], None, program),
            folder,
            port,
            # Nothing listens there, and nothing of it is needed.
            {"MONGODB_URI": "mongodb://127.0.0.1:9", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
            # llama-server parts a list of adapters at commas.
            | {"MODELSERVER_DATA_DIR": str(folder / "data, and more")}
            | {f"MODELSERVER_HOST__{name}": value for name, value in host.items()},
        )
        self.client = OllamaHost(OllamaSettings(host=self.url, timeout_s=LIMIT_S))

    def persona(self, name: str, seed: int) -> str:
        """Make a persona by a random adapter."""
        file = self.folder / f"{seed}.gguf"
        if not file.exists():
            write_random_adapter(file, seed)
        model = ServedModel(
            form="shared", base="base", file=file, system="", template=CHATML, stop=("<|im_end|>",)
        )
        self.client.create(name, model)
        return name

    def ask(self, name: str, **options: int) -> str:
        return self.client.ask(name, QUESTION, OPTIONS | options).text

    def llama_servers(self) -> list[psutil.Process]:
        """The children that run."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [c for c in children if "llama-server" in c.name() and _runs(c)]

    def metric(self, name: str) -> float:
        """A metric without labels."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        (value,) = re.findall(rf"^modelserver_{name} (\S+)$", text, re.MULTILINE)
        return float(value)


def _count(host: HostUnderTest) -> int:
    """The sockets of the llama-servers: one that listens each, and one a request under way."""
    return sum(len(server.net_connections(kind="unix")) for server in host.llama_servers())


def _fail_with(host: HostUnderTest, name: str, secret: str) -> None:
    """Ask what is refused by the role, what llama-server refuses, and what it dies of."""
    question = [{"role": "user", "content": f"{secret} " * 600}]
    asked = {"model": name, "messages": question, "options": OPTIONS, "stream": False}
    for more, status in (
        ({"truncate": False}, 400),
        ({"format": {"type": secret}}, 400),
        ({"format": secret}, 500),
    ):
        answer = httpx.post(
            f"{host.url}/api/chat", json=asked | more, timeout=LIMIT_S, trust_env=False
        )
        assert answer.status_code == status, answer.text
    (victim,) = host.llama_servers()
    with ThreadPoolExecutor(1) as askers:
        long = [{"role": "user", "content": secret}]
        asking = askers.submit(host.client.ask, name, long, OPTIONS | {"num_predict": 400})
        wait_for(lambda: _count(host) >= 2)
        victim.kill()
        assert isinstance(asking.exception(LIMIT_S), OllamaUnavailable)


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def program() -> Path:
    """A real llama-server."""
    path = find_llama_server()
    if path is None:
        pytest.skip("no llama-server: call `make hosts` once, or set LLAMA_SERVER_BIN")
    return path


@pytest.fixture(scope="module")
def base_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2."""
    return install_base("smollm2-135m-instruct", tmp_path_factory.mktemp("bases"))


@pytest.fixture
def host(tmp_path: Path, program: Path, base_gguf: Path) -> Iterator[HostUnderTest]:
    """The role with a limit of four adapters, and its base."""
    under_test = HostUnderTest(tmp_path, program, MAX_ADAPTERS="4")
    with under_test.process:
        under_test.client.ensure_base("base", base_gguf)
        yield under_test
        under_test.client.close()


def test_host_says_what_it_can(host: HostUnderTest) -> None:
    """Forms and kind, by its version; and the probes."""
    described = host.client.describe()
    assert described.kind == "llama-server"
    assert described.forms == ("shared", "plain")
    assert httpx.get(f"{host.url}/readyz", trust_env=False).is_success


def test_under_load_with_swaps_nobody_hears_another(host: HostUnderTest) -> None:
    """Four askers while three new personas come, with room for four: each answer is her own.

    One of the new ones gets a second version under the same name meanwhile.
    """
    names = {host.persona(f"p{seed}", seed): seed for seed in range(1, 5)}
    alone = {name: host.ask(name) for name in names}
    assert len(set(alone.values())) == 4
    ended = threading.Event()

    def keep_asking(name: str) -> list[str]:
        wrong, asked = [], 0
        while not ended.is_set() or not asked:
            asked += 1
            if (answer := host.ask(name)) != alone[name]:
                wrong.append(f"{name}: {answer!r}, alone {alone[name]!r}")
        return wrong

    with ThreadPoolExecutor(4) as askers:
        asking = [askers.submit(keep_asking, name) for name in names]
        try:
            new = {seed: host.ask(host.persona(f"new{seed}", seed)) for seed in (5, 7, 8)}
            before, new[5] = new[5], host.ask(host.persona("new5", 9))
        finally:
            ended.set()
        assert [future.result(LIMIT_S) for future in asking] == [[], [], [], []]
    assert {seed: host.ask(f"new{seed}") for seed in new} == new
    assert len({*alone.values(), *new.values(), before}) == 8
    assert host.metric("host_adapters_loaded") == 4
    wait_for(lambda: len(host.llama_servers()) == 1)


def test_killed_llama_server_fails_its_requests_and_is_replaced(host: HostUnderTest) -> None:
    """Twenty in flight end in an error, the next request is answered."""
    name = host.persona("anna", 1)
    expected = host.ask(name)

    def ask_long(_number: int) -> str:
        try:
            return host.ask(name, num_predict=400)
        except OllamaUnavailable:
            return "unavailable"

    (victim,) = host.llama_servers()
    with ThreadPoolExecutor(20) as askers:
        asking = [askers.submit(ask_long, number) for number in range(20)]
        wait_for(lambda: _count(host) >= 4)
        victim.kill()
        outcomes = [future.result(LIMIT_S) for future in asking]
    assert outcomes.count("unavailable") >= 4
    assert host.ask(name) == expected
    assert victim.pid not in {each.pid for each in host.llama_servers()}


def test_client_that_leaves_frees_its_slot(host: HostUnderTest) -> None:
    """Four endless answers whose clients left do not block a fifth request."""
    name = host.persona("anna", 1)
    raw = ollama.Client(host.url, timeout=LIMIT_S)
    endless = OPTIONS | {"num_predict": 400}
    began = time.monotonic()
    host.client.ask(name, QUESTION, endless)
    whole_s = time.monotonic() - began
    began = time.monotonic()
    for _ in range(4):
        stream = raw.chat(name, QUESTION, stream=True, options=endless)
        next(iter(stream))
        stream.close()  # type: ignore[attr-defined]
    assert host.ask(name)
    # Four whole answers at once would take longer than one alone.
    assert time.monotonic() - began < whole_s
    wait_for(lambda: _count(host) == 1)
    raw.close()  # type: ignore[no-untyped-call]


def test_nothing_that_was_said_is_in_a_log(host: HostUnderTest) -> None:
    """Neither log has any text, even of failed requests."""
    name = host.persona("anna", 1)
    host.client.ask(name, [{"role": "user", "content": SECRET}], OPTIONS)
    _fail_with(host, name, SECRET)
    written = "".join(
        path.read_text(errors="replace") for path in host.folder.rglob("*.log") if path.is_file()
    )
    assert "host.loaded" in written
    assert SECRET not in written and "Fisch" not in written


def test_end_finishes_what_is_under_way_and_leaves_no_process(host: HostUnderTest) -> None:
    """SIGTERM: the answer comes whole, then nothing is left."""
    name = host.persona("anna", 1)
    whole = host.ask(name, num_predict=40)
    children = host.llama_servers()
    with ThreadPoolExecutor(1) as asker:
        asked = asker.submit(host.ask, name, num_predict=40)
        wait_for(lambda: _count(host) >= 2)
        os.kill(host.process.pid, signal.SIGTERM)
        assert asked.result(LIMIT_S) == whole
    wait_for(lambda: not any(map(_runs, children)))


def test_killed_role_takes_its_llama_servers_along(host: HostUnderTest) -> None:
    """No process outlives the role."""
    host.ask(host.persona("anna", 1))
    children = host.llama_servers()
    assert children
    os.kill(host.process.pid, signal.SIGKILL)
    wait_for(lambda: not any(map(_runs, children)))


@pytest.mark.parametrize("command", ["no-such-llama-server", "/bin/true"])
def test_wrong_command_is_a_wrong_setting(tmp_path: Path, command: str) -> None:
    """Exit code 78, with the setting's name."""
    result = run_host(tmp_path, {"MODELSERVER_HOST__COMMAND": command})
    assert result.returncode == 78
    assert "MODELSERVER_HOST__COMMAND" in result.stderr + result.stdout


def test_port_in_use_is_a_wrong_setting(host: HostUnderTest, tmp_path: Path, program: Path) -> None:
    """Exit code 78, and the one that has it goes on."""
    port = host.url.rpartition(":")[2]
    variables = {"MODELSERVER_HOST__COMMAND": str(program), "MODELSERVER_HOST__PORT": port}
    result = run_host(tmp_path / "other", variables)
    assert result.returncode == 78
    assert "MODELSERVER_HOST__BIND" in result.stderr + result.stdout
    host.client.check()


def run_host(folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the role to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "run", "host"],
        env=os.environ | {"MODELSERVER_DATA_DIR": str(folder), "COLUMNS": "400"} | variables,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
