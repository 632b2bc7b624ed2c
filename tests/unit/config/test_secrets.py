"""No secret in what is printed, logged or raised; whatever secret a future setting adds."""

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from config.faults import secret_paths
from config.settings import ENV_PREFIX, MongoSettings, Settings, load_settings
from consumers.operations.doctor import examine
from pipeline.chat.store import ChatStore
from pipeline.storage.mongo import open_client
from schemas.errors import ConfigurationError

SECRET = "hunter2"
SECRETS = sorted(secret_paths(Settings))
CASES: dict[str, dict[str, object]] = {
    "password": {"protocol": "SASL_SSL", "username": "u", "password": SECRET},
    "client_secret": {
        "protocol": "SASL_SSL",
        "mechanism": "OAUTHBEARER",
        "client_id": "c",
        "client_secret": SECRET,
        "token_endpoint": "https://id.example/token",
    },
    "key_password": {"protocol": "SSL", "tls": {"key_password": SECRET}},
}


def environment_name(path: tuple[str, ...]) -> str:
    return ENV_PREFIX + "__".join(path).upper()


def wrong_environments(path: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The secret where it belongs among wrong neighbours, and where it does not belong."""
    name = environment_name(path)
    yield {name: SECRET, f"{ENV_PREFIX}OPS__PORT": "x"}
    yield {name: SECRET, f"{ENV_PREFIX}KAFKA__SECURITY__PROTOCOL": "TELNET"}
    yield {name: SECRET, f"{ENV_PREFIX}KAFKA__SECURITY__PROTOCOL": "PLAINTEXT", f"{name}X": "1"}
    yield {name: f'{{"a": "{SECRET}"}}', f"{name}__B": SECRET, f"{ENV_PREFIX}OPS__PORT": "x"}
    yield {f"{name}X": SECRET}
    for protocol in ("SSL", "SASL_SSL", "TELNET"):
        kafka = f"{ENV_PREFIX}KAFKA__SECURITY__"
        yield {f"{kafka}PROTOCOL": protocol, f"{name}X": SECRET}
        yield {f"{kafka}PROTOCOL": protocol, f"{kafka}MECHANISM": "OAUTHBEARER", name: SECRET}
    for group in (path[:end] for end in range(1, len(path))):
        yield {environment_name(group): f'"{SECRET}"'}
        yield {environment_name(group): f'["{SECRET}"]'}
        yield {environment_name(group): SECRET}


def test_every_secret_of_the_settings_is_found() -> None:
    assert {path[-1] for path in SECRETS} >= {"uri", "password", "key_password", "client_secret"}


@pytest.mark.parametrize("path", SECRETS, ids=".".join)
def test_secret_is_in_no_fault_and_in_no_traceback(
    monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]
) -> None:
    told: list[ConfigurationError] = []
    for environment in wrong_environments(path):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                assert SECRET not in repr(load_settings())
            except ConfigurationError as error:
                told.append(error)
    assert len(told) >= 5, "these settings must be refused"
    leaks = [e.message for e in told if SECRET in "".join(traceback.format_exception(e))]
    assert leaks == []


@pytest.mark.parametrize(
    "value", ["*hunter2", "!hunter2 x", '"hunter2', "[hunter2]", "{a: hunter2}", "%hunter2", "2"]
)
@pytest.mark.parametrize("path", SECRETS, ids=".".join)
def test_secret_is_in_no_fault_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: tuple[str, ...], value: str
) -> None:
    """YAML's own errors quote aliases and tags, and a password may begin like one."""
    file = tmp_path / "settings.yaml"
    text = value
    for name in reversed(path):
        text = f"{{{name}: {text}}}"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("MODELSERVER_CONFIG_FILE", str(file))
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("case", sorted(CASES))
def test_secret_is_in_no_text_of_the_settings(case: str, tmp_path: Path) -> None:
    security = CASES[case]
    if case == "key_password":
        file = tmp_path / "client.pem"
        file.touch()
        security = {
            "protocol": "SSL",
            "tls": {"certificate": file, "key": file, "key_password": SECRET},
        }
    settings = load_settings({"kafka": {"security": security}})
    assert SECRET in settings.kafka.client().values(), "librdkafka needs it"
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize("name", ["OLLAMA_HOST", f"{ENV_PREFIX}KAFKA__SECURITY__TOKEN_ENDPOINT"])
def test_address_with_a_password_is_refused_and_not_quoted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients drop user and password, so they would be there for nothing but to be seen."""
    monkeypatch.setenv(name, f"https://user:{SECRET}@host.example/")
    if name != "OLLAMA_HOST":
        kafka = f"{ENV_PREFIX}KAFKA__SECURITY__"
        for field, value in (("PROTOCOL", "SASL_SSL"), ("MECHANISM", "OAUTHBEARER")):
            monkeypatch.setenv(f"{kafka}{field}", value)
    with pytest.raises(ConfigurationError, match=name) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert "an @" in caught.value.message


def test_pydantics_own_error_does_not_quote_its_input() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"kafka": {"security": {"password": SECRET}}})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://user:hunter2@host/?tsl=true",
        "mongodb://user:hunter2/x@host",
        "mongodb://user:hunter2@host:port",
        "mongodb://user:a@hunter2@host",
        "mongodb://user:%hunter2@host/?authMechanism=hunter2",
        "mongodb://user:hunter2@host/?tls=hunter2",
        "mongodb://user:hunter2@host/?tls=true&tlsCAFile=/no/such/hunter2",
        "mongodb+srv://user:hunter2@a.b.example:27017/",
    ],
)
def test_address_that_is_none_is_refused_without_its_password(uri: str) -> None:
    settings = MongoSettings(uri=uri)
    for open_it in (open_client, ChatStore):
        with pytest.raises(ConfigurationError) as caught:
            open_it(settings)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert "MONGODB_URI" in caught.value.message


def test_doctor_tells_what_is_wrong_and_no_secret(tmp_path: Path) -> None:
    settings = load_settings(
        {
            "kafka": {"security": CASES["password"], "bootstrap_servers": "127.0.0.1:1"},
            "mongodb": {"uri": f"mongodb://user:{SECRET}/x@host"},
            "ollama": {"host": "http://127.0.0.1:1", "timeout_s": 0.1},
            "data_dir": tmp_path,
        }
    )
    findings = {finding.name: finding for finding in examine(settings)}
    assert SECRET not in "".join(finding.model_dump_json() for finding in findings.values())
    assert (findings["mongodb"].ok, findings["mongodb"].exit_code) == (False, 78)
    assert (findings["kafka"].ok, findings["kafka"].exit_code) == (False, 69)
