"""One embedded server process, and the base models in packages."""

import json
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from embedded.bases import PACKAGED_BASES, install_base
from embedded.process import EmbeddedServerFailed, ServerProcess, free_port
from schemas.errors import UnknownBaseModel
from tests.waiting import wait_for

LIMIT_S = 60


def are_gone(processes: list[psutil.Process]) -> bool:
    """Say whether all have ended; a zombie counts as ended."""
    return not any(is_alive(process) for process in processes)


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process runs and is not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- one process ------------------------------------------------------------------------------


def python_server(
    tmp_path: Path, code: str, *, start_limit_s: float = LIMIT_S, stop_limit_s: float = LIMIT_S
) -> ServerProcess:
    """Return a server which is ready when it has written `ready` into its log."""
    log = tmp_path / "server.log"
    return ServerProcess(
        "Test server",
        (sys.executable, "-c", code),
        log_path=log,
        is_ready=lambda _pid: "ready" in log.read_text(),
        start_limit_s=start_limit_s,
        stop_limit_s=stop_limit_s,
    )


WAIT = "import threading; print('ready', flush=True); threading.Event().wait()"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"


def test_start_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    """The error has the reason and the path of the log."""
    server = python_server(tmp_path, "raise SystemExit('the port is on fire')")
    with pytest.raises(EmbeddedServerFailed) as error, server:
        pytest.fail("it must not come up")
    assert "Test server ended by itself (exit code 1)" in str(error.value)
    assert "the port is on fire" in str(error.value)
    assert str(tmp_path / "server.log") in str(error.value)


def test_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """The process is ended."""
    server = python_server(
        tmp_path, "import threading; threading.Event().wait()", start_limit_s=0.3
    )
    with pytest.raises(EmbeddedServerFailed, match="did not answer within"), server:
        pytest.fail("it must not come up")
    assert not psutil.pid_exists(server.pid)


def test_missing_program_is_named(tmp_path: Path) -> None:
    """The error names the missing program."""
    argv = ("/no/such/program",)
    log = tmp_path / "server.log"
    server = ServerProcess("Ghost", argv, log_path=log, is_ready=lambda _pid: False)
    with pytest.raises(EmbeddedServerFailed, match="/no/such/program"), server:
        pytest.fail("it must not come up")


def test_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """After the stop limit, and no later."""
    with python_server(tmp_path, DEAF, stop_limit_s=0.2) as server:
        pid = server.pid
    assert not psutil.pid_exists(pid)


def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    """The whole process group goes."""
    code = f"import subprocess, sys; subprocess.Popen((sys.executable, '-c', {DEAF!r}))\n{WAIT}"
    with python_server(tmp_path, code) as server:
        wait_for(lambda: bool(psutil.Process(server.pid).children()), "it started its child")
        family = psutil.Process(server.pid).children(recursive=True)
    wait_for(lambda: are_gone(family), "the child is gone")


def test_what_a_server_started_ends_when_it_ends_by_itself(tmp_path: Path) -> None:
    """It is reaped at once; its pid may be reused, so nothing is signalled afterwards."""
    child = f"import subprocess, sys; c = subprocess.Popen((sys.executable, '-c', {DEAF!r}))"
    gone = tmp_path / "go"
    code = f"{child}\nimport os, time\nprint('ready', c.pid, flush=True)\n"
    code += f"while not os.path.exists({str(gone)!r}): time.sleep(0.01)"
    with python_server(tmp_path, code) as server:
        wait_for(lambda: bool(psutil.Process(server.pid).children()), "it started its child")
        family = psutil.Process(server.pid).children(recursive=True)
        gone.touch()
        wait_for(lambda: server.poll() is not None, "it ended")
        assert are_gone(family)


def test_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel ties a child to the thread that created it, which must not be the caller's."""
    server = python_server(tmp_path, WAIT)
    starter = threading.Thread(target=server.__enter__)
    starter.start()
    starter.join()
    try:
        assert server.poll() is None and psutil.pid_exists(server.pid)
    finally:
        server.stop()


def test_previous_log_is_kept_once(tmp_path: Path) -> None:
    """The reason of a crash outlives the restart that follows it."""
    with python_server(tmp_path, f"print('first'); {WAIT}"):
        pass
    with python_server(tmp_path, f"print('second'); {WAIT}"):
        pass
    assert "first" in (tmp_path / "server.previous.log").read_text()
    assert "second" in (tmp_path / "server.log").read_text()


def test_free_ports_can_be_listened_on() -> None:
    """They are above 1023."""
    assert all(free_port() > 1023 for _ in range(3))


# -- base models ------------------------------------------------------------------------------

SMALL = "smollm2-135m-instruct"


def test_base_is_installed_once(tmp_path: Path) -> None:
    """The second call does not read the file."""
    path = install_base(SMALL, tmp_path)
    assert path == tmp_path / SMALL / f"{SMALL}.gguf"
    assert path.stat().st_size == PACKAGED_BASES[SMALL].size_bytes
    modified = path.stat().st_mtime_ns
    began = time.monotonic()
    assert install_base(SMALL, tmp_path).stat().st_mtime_ns == modified
    assert time.monotonic() - began < 0.05


def test_damaged_base_is_replaced(tmp_path: Path) -> None:
    """A truncated or changed file is installed again."""
    path = install_base(SMALL, tmp_path)
    path.write_bytes(b"GGUF")
    assert install_base(SMALL, tmp_path).stat().st_size == PACKAGED_BASES[SMALL].size_bytes


def test_two_processes_install_at_once(tmp_path: Path) -> None:
    """One writes, the other waits; both get the whole file."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(install_base, SMALL, tmp_path) for _ in range(2)]
        paths = {future.result(LIMIT_S) for future in futures}
    assert [path.stat().st_size for path in paths] == [PACKAGED_BASES[SMALL].size_bytes]
    names = {path.name for path in (tmp_path / SMALL).iterdir()}
    assert not any(name.endswith(".partial") for name in names)


def test_unknown_base_is_refused(tmp_path: Path) -> None:
    """The error lists the known keys."""
    with pytest.raises(UnknownBaseModel, match=SMALL):
        install_base("gpt-5", tmp_path)


def test_terms_are_named_where_there_are_any() -> None:
    """Gemma's terms must be shown to the user; Apache-2.0 needs none."""
    terms = {key: base.terms_url for key, base in PACKAGED_BASES.items()}
    assert terms == {"gemma3-270m": "https://ai.google.dev/gemma/terms", SMALL: None}
    assert json.loads(PACKAGED_BASES[SMALL].model_dump_json())["license"] == "Apache-2.0"
