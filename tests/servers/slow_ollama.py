"""An Ollama that takes its time: it answers each question with the question, after a while."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class SlowOllama:
    """Serves chats without streaming while the context is open.

    `asked` counts them, `heard` has what was sent.
    """

    def __init__(self, answer_s: float) -> None:
        self.asked = 0
        self.heard: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(answer_s))
        self._server.daemon_threads = True
        self.host = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _count(self, body: dict[str, Any]) -> None:
        with self._lock:
            self.asked += 1
            self.heard.append(body)

    def _handler(self, answer_s: float) -> type[BaseHTTPRequestHandler]:
        slow = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer({"models": []})

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                asked = json.loads(self.rfile.read(length))
                slow._count(asked)
                slow._stopped.wait(answer_s)
                self._answer(
                    {
                        "model": asked["model"],
                        "created_at": "2026-01-01T00:00:00Z",
                        "message": {
                            "role": "assistant",
                            "content": asked["messages"][-1]["content"],
                        },
                        "done": True,
                        "prompt_eval_count": 1,
                        "eval_count": 1,
                    }
                )

            def _answer(self, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True  # Whoever asked has given up.

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler
