"""How a client proves who it is to Kafka: a model per security case, rendered for librdkafka.

Host names in certificates are always checked; there is no setting that turns it off.
Source of the option names: librdkafka's CONFIGURATION.md.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FilePath,
    SecretStr,
    Tag,
    field_validator,
    model_validator,
)

ClientConfig = dict[str, str | int | float | bool]

Required = Annotated[str, Field(min_length=1)]
SaslProtocol = Literal["SASL_SSL", "SASL_PLAINTEXT"]


class Case(BaseModel):
    """A group of settings that refuses unknown names and keeps its input out of errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TlsFiles(Case):
    """Certificates in PEM; without `ca` the system's own are trusted."""

    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    key_password: SecretStr | None = None

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


class Plaintext(Case):
    """No encryption, no authentication: loopback and tests."""

    protocol: Literal["PLAINTEXT"] = "PLAINTEXT"

    def render(self) -> ClientConfig:
        """Render the security options."""
        return {"security.protocol": "PLAINTEXT"}


class Tls(Case):
    """TLS, with a client certificate where the broker asks for one (mTLS)."""

    protocol: Literal["SSL"]
    tls: TlsFiles = TlsFiles()

    def render(self) -> ClientConfig:
        """Render the security options."""
        return {"security.protocol": "SSL", **self.tls.render()}


class Sasl(Case):
    """User name and password, over TLS unless told otherwise."""

    protocol: SaslProtocol
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: Required
    password: SecretStr
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


class Oauth(Case):
    """A token that librdkafka itself fetches and renews (OIDC, client credentials)."""

    protocol: SaslProtocol
    mechanism: Literal["OAUTHBEARER"]
    client_id: Required
    client_secret: SecretStr
    token_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    token_ca: FilePath | None = None
    """What the token endpoint's certificate is checked with; else the system's own."""
    scope: str | None = None
    extensions: dict[Annotated[str, Field(pattern=r"^[A-Za-z]+$")], str] = {}
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
    """Tell the case by `protocol`, and among the SASL ones by `mechanism`."""

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


# The tags stand in the place of a fault; config/settings.py takes them out of a setting's name.
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
