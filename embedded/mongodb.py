"""The MongoDB API for the embedded stack: SecantusDB, with data on disk, in its own process.

SecantusDB is GPL-2.0-only, so it is run as a program and never imported. Observed differences
from MongoDB: `find_one_and_update` scans the whole collection, comparing a date with `$$NOW` is
always false, and there is no text index.
"""

import sys
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from embedded.process import ServerProcess, free_port, is_port_listened_on_by

_ANSWER_LIMIT_MS = 2000


class MongoDbServer:
    """A SecantusDB on a free port, with its data in `<folder>/mongodb`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.process = ServerProcess(
            "MongoDB (SecantusDB)",
            _command_line(self.port, folder / "mongodb"),
            log_path=folder / "logs" / "mongodb.log",
            is_ready=self._is_ready,
        )

    @property
    def uri(self) -> str:
        """The address for `MongoClient`."""
        return f"mongodb://127.0.0.1:{self.port}"

    def _is_ready(self, pid: int) -> bool:
        return is_port_listened_on_by(pid, self.port) and _answers(self.uri)


def _command_line(port: int, data: Path) -> tuple[str, ...]:
    data.mkdir(parents=True, exist_ok=True)
    # An empty configuration file, so that the user's own secantusd.toml is not read.
    configuration = data.with_name("secantusd.toml")
    configuration.touch()
    module = (sys.executable, "-m", "secantus", "--config", str(configuration))
    return (*module, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data))


def _answers(uri: str) -> bool:
    client: MongoClient[dict[str, object]] = MongoClient(
        uri, serverSelectionTimeoutMS=_ANSWER_LIMIT_MS, connectTimeoutMS=_ANSWER_LIMIT_MS
    )
    try:
        return bool(client.admin.command("ping").get("ok"))
    except PyMongoError:
        return False
    finally:
        client.close()
