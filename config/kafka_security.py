"""How a client authenticates itself to Kafka: a model per security protocol, for librdkafka.

Host names in certificates are always checked; there is no setting that turns it off.
Source of the option names: librdkafka's CONFIGURATION.md.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    FilePath,
    SecretStr,
    Tag,
    field_validator,
    model_validator,
)

from config.section import Section

ClientConfig = dict[str, str | int | float | bool]

Required = Annotated[str, Field(min_length=1)]
SaslProtocol = Literal["SASL_SSL", "SASL_PLAINTEXT"]


class TlsFiles(Section):
    """Certificates in PEM."""

    ca: FilePath | None = None
    """The authorities that may sign the broker's certificate; none: the system's own."""
    certificate: FilePath | None = None
    """The client's certificate, for a broker that asks for one."""
    key: FilePath | None = None
    """The key of that certificate; both or neither."""
    key_password: SecretStr | None = None
    """The password of the key, if it has one."""

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key, both or neither: a client needs the pair")
        if self.key_password is not None and self.key is None:
            raise ValueError("key_password together with certificate and key")
        return self

    def render(self) -> ClientConfig:
        """Render `ssl.*`; only what was given."""
        return _given(
            {
                "ssl.ca.location": self.ca,
                "ssl.certificate.location": self.certificate,
                "ssl.key.location": self.key,
                "ssl.key.password": self.key_password,
            }
        )


class Plaintext(Section):
    """No encryption, no authentication: loopback and tests."""

    protocol: Literal["PLAINTEXT"] = "PLAINTEXT"
    """Selects this case."""

    def render(self) -> ClientConfig:
        """Render the security options."""
        return {"security.protocol": "PLAINTEXT"}


class Tls(Section):
    """TLS, with a client certificate if the broker asks for one (mTLS)."""

    protocol: Literal["SSL"]
    """Selects this case."""
    tls: TlsFiles = TlsFiles()

    def render(self) -> ClientConfig:
        """Render the security options."""
        return {"security.protocol": "SSL", **self.tls.render()}


class Sasl(Section):
    """User name and password."""

    protocol: SaslProtocol
    """With TLS or without; use `SASL_PLAINTEXT` on a private network only."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the client proves that it knows the password; `PLAIN` sends it."""
    username: Required
    """The user."""
    password: SecretStr
    """The user's password."""
    tls: TlsFiles = TlsFiles()

    def render(self) -> ClientConfig:
        """Render the security options."""
        return {
            "security.protocol": self.protocol,
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.username,
            "sasl.password": self.password.get_secret_value(),
            **self.tls.render(),
        }


class Oauth(Section):
    """A token that librdkafka fetches and renews by itself (OIDC, client credentials)."""

    protocol: SaslProtocol
    """With TLS or without; use `SASL_PLAINTEXT` on a private network only."""
    mechanism: Literal["OAUTHBEARER"]
    """Selects this case."""
    client_id: Required
    """The client's name at the token endpoint."""
    client_secret: SecretStr
    """The client's secret at the token endpoint."""
    token_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    """The address that issues tokens."""
    token_ca: FilePath | None = None
    """The authorities that may sign the token endpoint's certificate; none: the system's own."""
    scope: str | None = None
    """The scope to request for the token."""
    extensions: dict[Annotated[str, Field(pattern=r"^[A-Za-z]+$")], str] = Field(
        default_factory=dict
    )
    """SASL extensions, as JSON."""
    tls: TlsFiles = TlsFiles()

    @field_validator("extensions")
    @classmethod
    def _fit_one_line(cls, extensions: dict[str, str]) -> dict[str, str]:
        if any("," in value for value in extensions.values()) or "auth" in extensions:
            raise ValueError("values without a comma; the name auth is Kafka's own")
        return extensions

    def render(self) -> ClientConfig:
        """Render the security options."""
        extensions = ",".join(f"{name}={value}" for name, value in self.extensions.items())
        return {
            "security.protocol": self.protocol,
            "sasl.mechanism": self.mechanism,
            "sasl.oauthbearer.method": "oidc",
            **_given(
                {
                    "sasl.oauthbearer.client.id": self.client_id,
                    "sasl.oauthbearer.client.secret": self.client_secret,
                    "sasl.oauthbearer.token.endpoint.url": self.token_endpoint,
                    "sasl.oauthbearer.scope": self.scope,
                    "sasl.oauthbearer.extensions": extensions or None,
                    "https.ca.location": self.token_ca,
                }
            ),
            **self.tls.render(),
        }


def _given(options: dict[str, str | Path | SecretStr | None]) -> ClientConfig:
    def text(value: str | Path | SecretStr) -> str:
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    return {name: text(value) for name, value in options.items() if value is not None}


def _case(value: Any) -> str | None:
    """Choose the model by `protocol`, and for SASL by `mechanism` too."""

    def given(name: str) -> Any:
        return value.get(name) if isinstance(value, dict) else getattr(value, name, None)

    match given("protocol"):
        case "PLAINTEXT":
            return "plaintext"
        case "SSL":
            return "tls"
        case "SASL_SSL" | "SASL_PLAINTEXT":
            return "oauth" if given("mechanism") == "OAUTHBEARER" else "sasl"
    return None


# pydantic puts the tag into an error's location; config/faults.py takes it out again.
CASES = ("plaintext", "tls", "sasl", "oauth")
Security = Annotated[
    Annotated[Plaintext, Tag("plaintext")]
    | Annotated[Tls, Tag("tls")]
    | Annotated[Sasl, Tag("sasl")]
    | Annotated[Oauth, Tag("oauth")],
    Discriminator(
        _case,
        custom_error_type="no_such_security",
        custom_error_message="protocol PLAINTEXT, SSL, SASL_SSL or SASL_PLAINTEXT",
    ),
]
