"""Each security case is rendered for librdkafka; a wrong mix is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from pydantic import TypeAdapter

from config.kafka import KafkaSettings
from config.kafka_security import Oauth, Plaintext, Sasl, Security, Tls
from config.settings import load_settings
from schemas.errors import ConfigurationError

OAUTH = {
    "protocol": "SASL_SSL",
    "mechanism": "OAUTHBEARER",
    "client_id": "modelserver",
    "client_secret": "s3cret",
    "token_endpoint": "https://id.example/token",
}


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    file = tmp_path / "file.pem"
    file.touch()
    return file


def read(**given: Any) -> Any:
    return TypeAdapter(Security).validate_python(given)


def refused(**given: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"kafka": {"security": given}})
    return caught.value.message


def test_plaintext_is_the_default() -> None:
    assert KafkaSettings().security == Plaintext()
    assert read(protocol="PLAINTEXT").render() == {"security.protocol": "PLAINTEXT"}


def test_tls_with_a_ca_of_its_own(pem: Path) -> None:
    case = read(protocol="SSL", tls={"ca": str(pem)})
    assert isinstance(case, Tls)
    assert case.render() == {"security.protocol": "SSL", "ssl.ca.location": str(pem)}


def test_mtls(pem: Path) -> None:
    tls = {"certificate": pem, "key": pem, "key_password": "k3y"}
    assert read(protocol="SSL", tls=tls).render() == {
        "security.protocol": "SSL",
        "ssl.certificate.location": str(pem),
        "ssl.key.location": str(pem),
        "ssl.key.password": "k3y",
    }


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_user_and_password(protocol: str, mechanism: str) -> None:
    case = read(protocol=protocol, mechanism=mechanism, username="u", password="p")
    assert isinstance(case, Sasl)
    assert case.render() == {
        "security.protocol": protocol,
        "sasl.mechanism": mechanism,
        "sasl.username": "u",
        "sasl.password": "p",
    }


def test_scram_is_the_mechanism_unless_another_is_named() -> None:
    assert read(protocol="SASL_SSL", username="u", password="p").mechanism == "SCRAM-SHA-512"


def test_tokens(pem: Path) -> None:
    case = read(**OAUTH, scope="kafka", extensions={"logicalCluster": "a", "pool": "b"})
    assert isinstance(case, Oauth)
    assert case.render() == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "modelserver",
        "sasl.oauthbearer.client.secret": "s3cret",
        "sasl.oauthbearer.token.endpoint.url": "https://id.example/token",
        "sasl.oauthbearer.scope": "kafka",
        "sasl.oauthbearer.extensions": "logicalCluster=a,pool=b",
    }
    assert read(**OAUTH, token_ca=pem).render()["https.ca.location"] == str(pem)


@pytest.mark.parametrize(
    "case",
    [
        {"protocol": "PLAINTEXT"},
        {"protocol": "SSL"},
        {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "u", "password": "p"},
        {"protocol": "SASL_SSL", "username": "u", "password": "p"},
        OAUTH,
    ],
    ids=lambda case: f"{case['protocol']} {case.get('mechanism', '')}",
)
def test_librdkafka_takes_what_is_rendered(case: dict[str, Any]) -> None:
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1", security=read(**case))
    Producer(settings.producer())
    Consumer(settings.consumer("chat")).close()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"protocol": "TELNET"}, ["SECURITY:", "SASL_SSL"]),
        ({"username": "u"}, ["SECURITY:", "protocol"]),
        ({"protocol": "SASL_SSL", "username": "u"}, ["SECURITY__PASSWORD"]),
        ({"protocol": "SASL_SSL", "password": "p"}, ["SECURITY__USERNAME"]),
        ({"protocol": "SSL", "username": "u"}, ["SECURITY__USERNAME"]),
        ({"protocol": "PLAINTEXT", "tls": {}}, ["SECURITY__TLS"]),
        ({"protocol": "SASL_SSL", "mechanism": "GSSAPI"}, ["SECURITY__MECHANISM"]),
        (
            {"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER", "username": "u"},
            ["SECURITY__TOKEN_ENDPOINT", "SECURITY__CLIENT_ID", "SECURITY__USERNAME"],
        ),
        (OAUTH | {"token_endpoint": "id.example"}, ["SECURITY__TOKEN_ENDPOINT"]),
        (OAUTH | {"extensions": {"auth": "x"}}, ["SECURITY__EXTENSIONS"]),
        (OAUTH | {"extensions": {"a": "b,c=d"}}, ["SECURITY__EXTENSIONS"]),
        ({"protocol": "SSL", "tls": {"ca": "/no/such"}}, ["SECURITY__TLS__CA", "/no/such"]),
        ({"protocol": "SSL", "tls": {"key_password": "p"}}, ["SECURITY__TLS", "certificate"]),
    ],
)
def test_wrong_mix_is_refused_by_name(given: dict[str, Any], named: list[str]) -> None:
    message = refused(**given)
    assert all(name in message for name in named), message


@pytest.mark.parametrize("half", ["certificate", "key"])
def test_mtls_needs_certificate_and_key(pem: Path, half: str) -> None:
    assert "both or neither" in refused(protocol="SSL", tls={half: pem})


def test_names_of_the_environment(monkeypatch: pytest.MonkeyPatch, pem: Path) -> None:
    for name, value in {
        "PROTOCOL": "SASL_SSL",
        "MECHANISM": "PLAIN",
        "USERNAME": "u",
        "PASSWORD": "p",
        "TLS__CA": str(pem),
    }.items():
        monkeypatch.setenv(f"MODELSERVER_KAFKA__SECURITY__{name}", value)
    assert load_settings().kafka.client()["ssl.ca.location"] == str(pem)
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MODELSERVER_KAFKA__SECURITY__{name}")
    for name, value in OAUTH.items():
        monkeypatch.setenv(f"MODELSERVER_KAFKA__SECURITY__{name.upper()}", value)
    client = load_settings().kafka.client()
    assert client["sasl.oauthbearer.client.secret"] == "s3cret"
    assert client["ssl.ca.location"] == str(pem)
