"""The embedded stack: all three servers answer, and no process outlives the program."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import ollama
import psutil
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pymongo import MongoClient

from embedded.bases import install_base
from embedded.process import EmbeddedServerFailed
from embedded.stack import EmbeddedStack, StackAddresses
from tests.repository import REPOSITORY
from tests.waiting import wait_for

LIMIT_S = 60
STACK_UNTIL_KILLED = """
import pathlib, sys, threading
from embedded.stack import EmbeddedStack
with EmbeddedStack(pathlib.Path(sys.argv[1])):
    print("up", flush=True)
    threading.Event().wait()
"""


def children() -> list[psutil.Process]:
    """Return the processes that this one has started, and theirs."""
    return psutil.Process().children(recursive=True)


def are_gone(processes: list[psutil.Process]) -> bool:
    """Say whether all have ended; a zombie counts as ended."""
    return not any(is_alive(process) for process in processes)


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process runs and is not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def save_word(addresses: StackAddresses, word: str) -> None:
    """Write a document and have it confirmed."""
    with MongoClient[dict[str, str]](addresses.mongodb_uri) as client:
        client.test.words.insert_one({"word": word})


def saved_words(addresses: StackAddresses) -> list[str]:
    """Read the documents back."""
    with MongoClient[dict[str, str]](addresses.mongodb_uri) as client:
        return [document["word"] for document in client.test.words.find()]


def test_all_three_answer_and_nothing_is_left(tmp_path: Path) -> None:
    """The ordinary clients work; afterwards no process and no listener is left."""
    before, steps = set(children()), list[str]()
    with EmbeddedStack(tmp_path, on_step=steps.append) as addresses:
        started = [process for process in children() if process not in before]
        admin = AdminClient({"bootstrap.servers": addresses.kafka_bootstrap_servers})
        admin.create_topics([NewTopic("t", 3)])["t"].result(LIMIT_S)
        assert len(admin.list_topics("t", timeout=LIMIT_S).topics["t"].partitions) == 3
        save_word(addresses, "hello")
        with httpx.Client() as client:
            assert client.get(f"{addresses.ollama_host}/api/tags").json() == {"models": []}
    assert len(started) >= 3 and len(steps) == 6
    assert are_gone(started)
    with pytest.raises(httpx.ConnectError):
        httpx.get(addresses.ollama_host)


def test_data_is_there_at_the_next_start(tmp_path: Path) -> None:
    """MongoDB's data survives; the Kafka broker keeps its own in memory."""
    with EmbeddedStack(tmp_path) as addresses:
        save_word(addresses, "kept")
    with EmbeddedStack(tmp_path) as addresses:
        assert saved_words(addresses) == ["kept"]


def test_two_stacks_run_side_by_side(tmp_path: Path) -> None:
    """Each on ports of its own."""
    with EmbeddedStack(tmp_path / "a") as first, EmbeddedStack(tmp_path / "b") as second:
        save_word(first, "first")
        assert saved_words(second) == []
        mine, other = first.as_environment(), second.as_environment()
        assert mine.keys() == {"KAFKA_BOOTSTRAP_SERVERS", "MONGODB_URI", "OLLAMA_HOST"}
        assert not set(mine.values()) & set(other.values())


def test_server_that_dies_is_reported(tmp_path: Path) -> None:
    """`poll` names it; the other servers are stopped all the same."""
    stack, before = EmbeddedStack(tmp_path), set(children())
    with stack:
        started = [process for process in children() if process not in before]
        assert stack.poll() is None
        (broker,) = [process for process in started if "tansu" in process.name()]
        broker.kill()
        wait_for(lambda: stack.poll() is not None, "the broker's death is seen")
        report = stack.poll() or ""
        assert "Kafka (tansu) ended by itself (killed by SIGKILL)" in report
        assert "kafka.log" in report
    assert stack.poll() is None and are_gone(started)


def test_failed_start_stops_the_others(tmp_path: Path) -> None:
    """MongoDB's folder is taken by a file: the error says which server, and shows its log."""
    (tmp_path / "mongodb").mkdir()
    (tmp_path / "mongodb" / "WiredTiger").mkdir()
    before = set(children())
    with pytest.raises(EmbeddedServerFailed, match="MongoDB") as error, EmbeddedStack(tmp_path):
        pytest.fail("the stack must not come up")
    assert str(tmp_path / "logs" / "mongodb.log") in str(error.value)
    assert are_gone([process for process in children() if process not in before])


def test_killed_program_leaves_no_server(tmp_path: Path) -> None:
    """`kill -9` gives no chance to clean up; the kernel does it."""
    with subprocess.Popen(
        (sys.executable, "-c", STACK_UNTIL_KILLED, str(tmp_path)),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None and program.stdout.readline() == "up\n"
        servers = psutil.Process(program.pid).children(recursive=True)
        program.kill()
    assert len(servers) >= 3
    wait_for(lambda: are_gone(servers), "all servers are gone")


def test_interrupt_at_the_terminal_reaches_the_program_only(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole foreground group: the servers are not in it."""
    before = children()
    with (
        EmbeddedStack(tmp_path) as addresses,
        httpx.Client() as client,
    ):
        groups = {os.getpgid(process.pid) for process in children() if process not in before}
        assert len(groups) >= 3
        assert os.getpgid(0) not in groups
        assert client.get(addresses.ollama_host).is_success


def test_ollama_with_a_loaded_model_ends_at_once(tmp_path: Path) -> None:
    """llama.cpp installs its own signal handlers; ours must still take effect."""
    base = install_base("smollm2-135m-instruct", tmp_path / "bases")
    before = children()
    with EmbeddedStack(tmp_path) as addresses:
        client = ollama.Client(addresses.ollama_host)
        client.create("m", files={"m.gguf": client.create_blob(base)}, stream=False)
        answer = client.generate("m", "1, 2, 3,", raw=True, options={"num_predict": 3})
        client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed
        started = [process for process in children() if process not in before]
        (server,) = [p for p in started if "embedded.ollama" in p.cmdline()]
        assert answer.response
        server.send_signal(signal.SIGTERM)
        began = time.monotonic()
        wait_for(lambda: not is_alive(server), "the server ended on SIGTERM")
        assert time.monotonic() - began < 4
