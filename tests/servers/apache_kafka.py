"""Apache Kafka for tests: fetched once from Maven Central, started in KRaft mode, one or several.

Needs Java 17 and Maven. Every broker is a controller too, so with three of them any one may die.
"""

import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from config.kafka_security import ClientConfig
from embedded.process import ServerProcess

VERSION = "4.1.0"
_OLDEST_JAVA = 17
_CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
_FETCH_LIMIT_S = 900
_FORMAT_LIMIT_S = 120
_ANSWER_LIMIT_S = 2.0
# Below those that Linux gives to clients: a broker that comes back must find its own still free.
_PORTS = range(20_000, 32_768)
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>heirloom</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


def missing_tools() -> list[str]:
    """Name what this machine lacks to run Apache Kafka."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if "java" not in missing and _java_version() < _OLDEST_JAVA:
        missing.append(f"java {_OLDEST_JAVA} or newer")
    return missing


def _java_version() -> int:
    told = subprocess.run(("java", "-version"), capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', told.stderr)
    return int(found[1]) if found else 0


def install(cache: Path) -> Path:
    """Return the folder with Kafka's jars; fetch them the first time (54 MB)."""
    folder = cache / f"apache-kafka-{VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        made = Path(name)
        (made / "pom.xml").write_text(_POM, encoding="utf-8")
        command = ("mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs")
        subprocess.run(command, cwd=made, check=True, timeout=_FETCH_LIMIT_S)
        try:
            (made / "libs").rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run was first
                raise
    return folder


def cache_folder() -> Path:
    """Where the jars are kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "heirloom-modelserver" / "tools"


def free_ports(count: int) -> list[int]:
    """Give different ports of 127.0.0.1 that nothing has now and no client will be given."""
    # The system's chance: two test runs with the same seed are not to choose the same ports.
    order = random.SystemRandom().sample(_PORTS, len(_PORTS))
    found = list(islice(filter(_is_free, order), count))
    assert len(found) == count, "no free ports"
    return found


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Broker:
    """One node. It may be stopped, killed and started again on the same data."""

    def __init__(
        self,
        node: int,
        folder: Path,
        libs: Path,
        properties: Mapping[str, str],
        is_ready: Callable[[], bool],
    ) -> None:
        self.node = node
        self._folder = folder
        self._libs = libs
        self._is_ready = is_ready
        self._config = folder / "server.properties"
        self._process: ServerProcess | None = None
        folder.mkdir(parents=True)
        lines = [f"{name}={value}" for name, value in properties.items()]
        self._config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def format(self, *arguments: str) -> None:
        """Prepare the data folder."""
        command = [*self._java("128m"), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID]
        subprocess.run(
            [*command, "-c", str(self._config), *arguments],
            check=True,
            timeout=_FORMAT_LIMIT_S,
            capture_output=True,
        )

    def start(self) -> None:
        """Start the node and return at once."""
        self._process = ServerProcess(
            f"Apache Kafka {VERSION}, node {self.node}",
            [*self._java("512m"), "kafka.Kafka", str(self._config)],
            log_path=self._folder / "kafka.log",
            is_ready=lambda pid: self._is_ready(),
            stop_limit_s=30.0,
        )
        self._process.start()

    def wait_until_ready(self) -> None:
        """Return when the cluster answers here."""
        assert self._process is not None
        self._process.wait_until_ready()

    def stop(self, *, hard: bool = False) -> None:
        """Stop the node: asked to, or killed. It may be started again."""
        if self._process is not None:
            if hard:
                self._process.kill()
            else:
                self._process.stop()

    def _java(self, heap: str) -> list[str]:
        # Small and quick to start; a broker of a test does not live long enough for more.
        return [
            "java",
            f"-Xmx{heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{self._libs}/*",
        ]


class ApacheKafka:
    """A cluster while the context is open."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        extra: Mapping[str, str] | None = None,
        client: ClientConfig | None = None,
        format_arguments: Sequence[str] = (),
    ) -> None:
        """Prepare a cluster.

        Args:
            folder: gets the data and logs.
            extra: further broker properties; `{client}` and `{control}` stand for the ports.
            client: the client settings that reach a broker configured by `extra`.
            format_arguments: for StorageTool, as `--add-scram`.
        """
        libs = install(cache_folder())
        found = free_ports(2 * nodes)
        ports = list(zip(found[::2], found[1::2], strict=True))
        self.bootstrap_servers = ",".join(f"127.0.0.1:{client_port}" for client_port, _ in ports)
        self._client = client or {}
        self._format_arguments = format_arguments
        voters = ",".join(f"{n}@127.0.0.1:{control}" for n, (_, control) in enumerate(ports, 1))
        self.brokers = [
            Broker(
                node,
                folder / f"node-{node}-{uuid.uuid4().hex[:6]}",
                libs,
                _properties(node, nodes, port, control, voters, folder)
                | {
                    name: value.replace("{client}", str(port)).replace("{control}", str(control))
                    for name, value in (extra or {}).items()
                },
                lambda: self._answers(nodes),
            )
            for node, (port, control) in enumerate(ports, 1)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for broker in self.brokers:
                broker.format(*self._format_arguments)
                broker.start()
                # The data goes too: nobody waits for a shutdown in good order.
                self._stack.callback(broker.stop, hard=True)
            for broker in self.brokers:
                broker.wait_until_ready()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _answers(self, nodes: int) -> bool:
        admin = AdminClient(
            {"bootstrap.servers": self.bootstrap_servers, "log_level": 0} | self._client
        )
        try:
            return len(admin.list_topics(timeout=_ANSWER_LIMIT_S).brokers) == nodes
        except KafkaException:
            return False


def _properties(
    node: int, nodes: int, port: int, control: int, voters: str, folder: Path
) -> dict[str, str]:
    copies = str(min(nodes, 3))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": voters,
        "listeners": f"CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{port}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(folder / f"data-{node}"),
        "num.partitions": "3",
        "default.replication.factor": copies,
        "min.insync.replicas": "1" if nodes == 1 else "2",
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "3",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        # A killed node is missed soon, and its partitions' leaders move.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "group.consumer.heartbeat.interval.ms": "500",
        "group.consumer.min.heartbeat.interval.ms": "500",
        "group.consumer.min.session.timeout.ms": "3000",
        "group.consumer.session.timeout.ms": "6000",
    }
