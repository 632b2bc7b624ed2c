"""Options of every tier: which Kafka the tests talk to, how groups are joined, which model host.

`--model-host NAME` starts a real model host for the session and puts its address into OLLAMA_HOST.
The contract suites then run only their cases on the real host.
"""

from collections.abc import Iterator

import pytest

from tests.servers.model_hosts import HOSTS, FoundHost, find_host, open_host

# The fixtures of the contract suites whose parameter names the host of a case, and the parameters
# that name the real one.
_HOST_FIXTURES = ("server", "under_test", "hosted", "load")
_REAL = ("real", "llama-server")


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
    group.addoption(
        "--model-host",
        choices=tuple(HOSTS),
        help="a real model host: named by a variable (CONTRIBUTING.md), else built by `make hosts`",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.group_protocol == "consumer" and config.option.kafka == "embedded":
        raise pytest.UsageError("--group-protocol consumer needs --kafka apache")
    if config.option.kafka == "apache":
        from tests.servers.apache_kafka import missing_tools

        if missing := missing_tools():
            raise pytest.UsageError(f"--kafka apache needs {' and '.join(missing)} on the PATH")
    name = config.option.model_host
    if name is not None and find_host(name) is None:
        variables = f"{HOSTS[name].variable}_BIN or {HOSTS[name].variable}_HOST"
        raise pytest.UsageError(f"--model-host {name}: call `make hosts` once, or set {variables}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--model-host`, leave out the cases on the fake and on the embedded server."""
    if config.option.model_host is None:
        return
    wanted = [_host_of(item) for item in items]
    chosen = [item for item, host in zip(items, wanted, strict=True) if host in (None, *_REAL)]
    if any(wanted) and not set(_REAL) & set(wanted):
        raise pytest.UsageError("--model-host: no case of these suites is for the real host")
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _host_of(item: pytest.Item) -> str | None:
    """Return the host that a case of a contract suite runs on; None for any other test."""
    case = getattr(item, "callspec", None)
    parameters = {} if case is None else case.params
    return next((str(parameters[name]) for name in _HOST_FIXTURES if name in parameters), None)


def pytest_report_header(config: pytest.Config) -> str:
    return (
        f"kafka: {config.option.kafka}, group protocol: {config.option.group_protocol}, "
        f"model host: {config.option.model_host or 'embedded'}"
    )


@pytest.fixture(scope="session", autouse=True)
def model_host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FoundHost, str] | None]:
    """The host that `--model-host` chose, and its address; without the option, None."""
    name = request.config.option.model_host
    found = None if name is None else find_host(name)
    if found is None:
        yield None
        return
    with (
        open_host(found, tmp_path_factory.mktemp(found.kind.name)) as address,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("OLLAMA_HOST", address)
        yield found, address


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
    from embedded.kafka import KafkaServer

    server = KafkaServer(folder)
    with server.process:
        yield server.bootstrap_servers
