"""A TCP proxy between the service and a server; it can refuse, hang, slow down or answer 500."""

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

Mode = Literal["pass", "gone", "hang", "slow", "500"]
_SLOW_S = 0.3
_CHUNK = 65536
_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b"Content-Length: 15\r\nConnection: close\r\n\r\n"
    b'{"error":"no"}\n'
)


class Proxy:
    """Forwards connections while the context is open, in a mode that `set_mode` changes."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._mode: Mode = "pass"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.set_mode("gone")

    def set_mode(self, mode: Mode) -> None:
        """Change the mode; `gone` and `500` cut the open connections, the others keep them."""
        with self._changed:
            self._mode = mode
            self._changed.notify_all()
        if mode in ("gone", "500"):
            with self._lock:
                for connection in self._open:
                    _cut(connection)
                self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._mode == "gone":
            _cut(client)
            return
        if self._mode == "500":
            self._refuse(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:
            _cut(client)
            return
        with self._lock:
            self._open |= {client, server}
        threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
        self._pump(server, client)

    def _refuse(self, client: socket.socket) -> None:
        try:
            client.settimeout(1.0)
            client.recv(_CHUNK)
            client.sendall(_ERROR)
        except OSError:
            pass
        _cut(client)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(_CHUNK):
                with self._changed:
                    self._changed.wait_for(lambda: self._mode != "hang")
                if self._mode == "slow":
                    time.sleep(_SLOW_S)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            _cut(end)
        with self._lock:
            self._open -= {source, target}


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
