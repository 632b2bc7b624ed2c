"""The processes of the embedded servers and their ports."""

import socket
from contextlib import suppress
from typing import ClassVar

import psutil

from pipeline.processes import server_process
from pipeline.processes.server_process import ServerProcessFailed, dying_with_parent

__all__ = [
    "EmbeddedServerFailed",
    "ServerProcess",
    "dying_with_parent",
    "free_port",
    "is_port_listened_on_by",
]


class EmbeddedServerFailed(ServerProcessFailed):
    """An embedded server did not start or ended by itself; see its log file."""

    code: ClassVar[str] = "embedded_server_failed"


class ServerProcess(server_process.ServerProcess):
    """An embedded server that runs while the context is open."""

    failure = EmbeddedServerFailed


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is currently unused."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_port_listened_on_by(pid: int, port: int) -> bool:
    """Say whether this process listens on the port, rather than one that took it first."""
    with suppress(psutil.NoSuchProcess):
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for connection in psutil.Process(pid).net_connections(kind="tcp4")
        )
    return False
