"""Options of every tier: which Kafka the tests talk to, and how their consumers join groups."""

from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("modelserver")
    group.addoption(
        "--kafka",
        choices=("embedded", "apache"),
        default="embedded",
        help="the broker: embedded (default), or Apache Kafka (needs Java 17 and Maven)",
    )
    group.addoption(
        "--group-protocol",
        choices=("classic", "consumer"),
        default="classic",
        help="of the consumer groups: classic with cooperative-sticky, or consumer (KIP-848)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.group_protocol == "consumer" and config.option.kafka == "embedded":
        raise pytest.UsageError("--group-protocol consumer needs --kafka apache")
    if config.option.kafka == "apache":
        from tests.servers.apache_kafka import missing_tools

        if missing := missing_tools():
            raise pytest.UsageError(f"--kafka apache needs {' and '.join(missing)} on the PATH")


def pytest_report_header(config: pytest.Config) -> str:
    return f"kafka: {config.option.kafka}, group protocol: {config.option.group_protocol}"


@pytest.fixture(scope="session")
def kafka_bootstrap_servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the broker that `--kafka` chose."""
    folder = tmp_path_factory.mktemp("kafka")
    if request.config.option.kafka == "apache":
        from tests.servers.apache_kafka import ApacheKafka

        with ApacheKafka(folder) as cluster:
            yield cluster.bootstrap_servers
        return
    from consumers.embedded.kafka import KafkaServer

    server = KafkaServer(folder)
    with server.process:
        yield server.bootstrap_servers
