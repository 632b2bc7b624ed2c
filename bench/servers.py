"""Broker and store for the benchmarks of ledger, relay, outage and recovery.

The broker is Apache Kafka (tests/servers/apache_kafka.py) where Java and Maven are installed, else
the embedded one; the store is SecantusDB. Each way of a pair gets its own database, topics and
groups.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal
from uuid import uuid4

from config.kafka import KafkaSettings
from config.settings import LogSettings, MongoSettings, OpsSettings, Settings
from embedded.kafka import SESSION_TIMEOUT_MS, KafkaServer
from embedded.mongodb import MongoDbServer
from schemas.base import Frozen
from schemas.topics import CATALOGUE
from tests.servers import apache_kafka

Broker = Literal["apache", "embedded"]
PARTITIONS = 3


class Servers(Frozen):
    """The servers' addresses, and the broker's name."""

    broker: str
    bootstrap_servers: str
    mongodb_uri: str


def add_options(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    """Add the options that these benchmarks share."""
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument(
        "--kafka",
        choices=("auto", "apache", "embedded"),
        default="auto",
        help="the broker; auto: Apache Kafka where Java and Maven are there, else the embedded one",
    )
    parser.add_argument("--json", action="store_true")


def chosen(kafka: str) -> Broker:
    """Return the broker that the option `--kafka` selects; exit where it is not installed."""
    missing = apache_kafka.missing_tools()
    if kafka == "apache" and missing:
        sys.exit(f"--kafka apache needs {' and '.join(missing)} on the PATH")
    return "embedded" if kafka == "embedded" or missing else "apache"


@contextmanager
def open_servers(folder: Path, kafka: str) -> Iterator[Servers]:
    """Run broker and store while the context is open; their data goes with them."""
    with ExitStack() as stack:
        mongodb = MongoDbServer(folder)
        stack.enter_context(mongodb.process)
        if chosen(kafka) == "apache":
            cluster = stack.enter_context(apache_kafka.ApacheKafka(folder / "kafka"))
            name = f"Apache Kafka {apache_kafka.VERSION}"
            address = cluster.bootstrap_servers
        else:
            server = KafkaServer(folder)
            stack.enter_context(server.process)
            name, address = "the embedded broker (tansu)", server.bootstrap_servers
        print(f"Kafka: {name}; store: SecantusDB", file=sys.stderr, flush=True)
        yield Servers(broker=name, bootstrap_servers=address, mongodb_uri=mongodb.uri)


def settings_for(servers: Servers, folder: Path, *, mongodb_uri: str | None = None) -> Settings:
    """Return settings with a database, topics and groups of their own, and defaults otherwise."""
    name = f"b{uuid4().hex[:8]}"
    return Settings(
        kafka=KafkaSettings(
            bootstrap_servers=servers.bootstrap_servers,
            group_prefix=name,
            session_timeout_ms=SESSION_TIMEOUT_MS,
        ),
        mongodb=MongoSettings(uri=mongodb_uri or servers.mongodb_uri, database=name),
        ops=OpsSettings(port=0),
        log=LogSettings(file=False),
        topics={topic.name: f"{name}.{topic.name}" for topic in CATALOGUE},
        data_dir=folder / name,
        current_model="smollm2-135m-instruct",
    )
