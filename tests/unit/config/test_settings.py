"""Settings: environment over YAML; a wrong value is named with what was expected."""

from pathlib import Path

import pytest

from config.settings import Settings, load_settings
from schemas.errors import ConfigurationError


def fault(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    return caught.value.message


def test_defaults_are_loopback() -> None:
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert settings.mongodb.database == "heirloom"
    assert (settings.ops.host, settings.ops.port) == ("127.0.0.1", 9108)


def test_names_that_everybody_uses_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "k1:9092,k2:9092")
    monkeypatch.setenv("MONGODB_URI", "mongodb+srv://user:word@atlas.example")
    monkeypatch.setenv("MONGODB_DATABASE", "family")
    monkeypatch.setenv("OLLAMA_HOST", "http://gpu:11434")
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "k1:9092,k2:9092"
    assert settings.mongodb.uri.get_secret_value().endswith("atlas.example")
    assert (settings.mongodb.database, settings.ollama.host) == ("family", "http://gpu:11434")


def test_nested_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVER_WORKER__LEASE_S", "90")
    monkeypatch.setenv("MODELSERVER_MONGODB__FIELDS__ANSWER", '["text", "answer"]')
    settings = load_settings()
    assert settings.worker.lease_s == 90
    assert settings.mongodb.fields.answer == ("text", "answer")


def test_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "kafka: {bootstrap_servers: 'file:1', group_prefix: of-the-file}\n"
        "worker: {lease_s: 77}\nmongodb: {fields: {answer: 'text,answer'}}\n"
        "topics: {chat-requests: prod.chat}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("MODELSERVER_CONFIG_FILE", str(file))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "environment:1")
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "environment:1"
    assert settings.kafka.group_prefix == "of-the-file"
    assert settings.worker.lease_s == 77
    assert settings.mongodb.fields.answer == ("text", "answer")
    assert (settings.topic("chat-requests"), settings.topic("model-ready")) == (
        "prod.chat",
        "model-ready",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODELSERVER_WORKER__LEASE_S", "soon"),
        ("MODELSERVER_WORKER__LEASE_S", "-1"),
        ("MODELSERVER_WORKER__MAX_ATTEMPTS", "0"),
        ("MODELSERVER_WORKER__HEARTBEAT_S", "29"),
        ("MODELSERVER_OPS__PORT", "70000"),
        ("MODELSERVER_LANGUAGE", "fr"),
        ("MODELSERVER_MAX_MESSAGE_BYTES", "lots"),
        ("MODELSERVER_EVALUATION__THRESHOLD", "1.5"),
        ("MONGODB_DATABASE", "a/b"),
        ("MODELSERVER_LOG__LEVEL", "loud"),
    ],
)
def test_wrong_value_is_refused_with_name_value_and_expectation(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    message = fault(monkeypatch, **{name: value})
    assert name in message
    assert value in message
    assert "expected" in message


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = fault(monkeypatch, MODELSERVER_OPS__PORT="x", MODELSERVER_LANGUAGE="fr")
    assert "MODELSERVER_OPS__PORT" in message and "MODELSERVER_LANGUAGE" in message


@pytest.mark.parametrize(
    "name", ["MODELSERVER_WORKR__LEASE_S", "MODELSERVER_WORKER__LEESE_S", "MODELSERVER_KAFKA__X"]
)
def test_misspelled_name_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert name in fault(monkeypatch, **{name: "5"})


def test_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://user:hunter2@host")
    monkeypatch.setenv(
        "MODELSERVER_KAFKA__SECURITY",
        '{"protocol": "SASL_SSL", "username": "u", "password": "hunter2"}',
    )
    settings = load_settings()
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.kafka.client()["sasl.password"] == "hunter2"
    assert "hunter2" not in fault(monkeypatch, MODELSERVER_OPS__PORT="x")


def test_secret_that_is_wrong_is_not_shown_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("mongodb: {uri: [hunter2]}", encoding="utf-8")
    message = fault(monkeypatch, MODELSERVER_CONFIG_FILE=str(file))
    assert "MONGODB_URI" in message and "hunter2" not in message
    message = fault(
        monkeypatch,
        MODELSERVER_CONFIG_FILE="",
        MODELSERVER_KAFKA__SECURITY='{"protocol": "SASL_SSL", "password": "hunter2"}',
    )
    assert "hunter2" not in message


def test_protocol_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = fault(monkeypatch, MODELSERVER_KAFKA__SECURITY='{"protocol": "TELNET"}')
    assert "MODELSERVER_KAFKA__SECURITY" in message


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "nonsense: 1\n", "kafka: {x: 1}\n"])
def test_file_that_is_no_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content, encoding="utf-8")
    assert fault(monkeypatch, MODELSERVER_CONFIG_FILE=str(file))


@pytest.mark.parametrize("value", ["nonsense", "[", '"text"', "[1]", "5"])
def test_group_that_is_none_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    assert "kafka" in fault(monkeypatch, MODELSERVER_KAFKA__SECURITY=value).lower()


def test_file_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "/no/such/file" in fault(monkeypatch, MODELSERVER_CONFIG_FILE="/no/such/file")


@pytest.mark.parametrize("field", ["$where", "", "a\0b"])
def test_field_name_that_is_an_operator_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str
) -> None:
    with pytest.raises(ConfigurationError, match="field names"):
        load_settings({"mongodb": {"fields": {"answer": (field,)}}})


def test_unknown_current_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"MODELSERVER_CURRENT_MODEL.*llama3\.1-8b"):
        Settings(current_model="gpt-17").training()


def test_consumers_commit_by_hand_and_producers_lose_nothing() -> None:
    kafka = Settings().kafka
    consumer, producer = kafka.consumer("chat"), kafka.producer()
    assert consumer["enable.auto.commit"] is False
    assert consumer["group.id"] == "modelserver-chat"
    assert (producer["enable.idempotence"], producer["acks"]) == (True, "all")
    assert producer["partitioner"] == "murmur2_random"
