"""Apache Kafka with TLS, every SASL mechanism that is supported, and real ACLs.

The test's own client comes over a plain listener and may do anything, as the broker itself may.
"""

import base64
import json
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from embedded.process import free_port
from schemas.access import Right
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.certificates import Authority, encrypt_key

PASSWORD = "correct-horse"
KEY_PASSWORD = "key-staple"
LIMIT_S = 30.0
_MODULES = "org.apache.kafka.common.security"
_LISTENERS = ("SCRAM", "PLAIN", "OAUTH", "MTLS")


class SecuredKafka:
    """One broker, a port for each way to log in, and the settings of each user."""

    def __init__(self, folder: Path, users: Iterable[str]) -> None:
        self.authority = Authority(folder / "ca", "authority")
        self.other_authority = Authority(folder / "other", "another authority")
        self._ports = {name: free_port() for name in _LISTENERS}
        self._tokens = TokenEndpoint()
        self.users = tuple(users)
        scram = [f"SCRAM-SHA-512=[name={user},password={PASSWORD}]" for user in self.users]
        self.kafka = ApacheKafka(
            folder / "kafka",
            extra=_properties(self._ports, self.authority, self.users),
            format_arguments=[part for entry in scram for part in ("--add-scram", entry)],
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._tokens)
        self._stack.enter_context(self.kafka)
        self._admin = AdminClient(
            {"bootstrap.servers": self.kafka.bootstrap_servers, "log_level": 0}
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def client(self, user: str, way: str = "SCRAM", **over: Any) -> dict[str, Any]:
        """Give `bootstrap_servers` and `security` for settings."""
        tls: dict[str, Any] = {"ca": self.authority.certificate}
        security: dict[str, Any] = {"protocol": "SASL_SSL", "tls": tls}
        match way:
            case "SCRAM":
                security |= {"username": user, "password": PASSWORD}
            case "PLAIN":
                security |= {"mechanism": "PLAIN", "username": user, "password": PASSWORD}
            case "OAUTH":
                security |= {"mechanism": "OAUTHBEARER", "client_id": user}
                security |= {"client_secret": PASSWORD, "token_endpoint": self._tokens.url}
            case "MTLS":
                certificate, key = self.authority.sign(user)
                tls |= {"certificate": certificate, "key": encrypt_key(key, KEY_PASSWORD)}
                security = {"protocol": "SSL", "tls": tls | {"key_password": KEY_PASSWORD}}
        servers = f"127.0.0.1:{self._ports[way]}"
        return {"bootstrap_servers": servers, "security": security | over}

    def grant(self, right: Right, user: str, name: str) -> None:
        """Give a user a right on what the broker calls `name`."""
        kind = ResourcePatternType.PREFIXED if right.prefix else ResourcePatternType.LITERAL
        binding = AclBinding(
            ResourceType[right.resource.upper()],
            name,
            kind,
            f"User:{user}",
            "*",
            AclOperation[right.operation.upper()],
            AclPermissionType.ALLOW,
        )
        for done in self._admin.create_acls([binding]).values():
            done.result(LIMIT_S)


def _properties(
    ports: dict[str, int], authority: Authority, users: Iterable[str]
) -> dict[str, str]:
    addresses = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    advertised = ",".join(["CLIENT://127.0.0.1:{client}", *addresses.values()])
    protocols = ["CLIENT:PLAINTEXT", "CONTROLLER:PLAINTEXT", "MTLS:SSL"]
    protocols += [f"{name}:SASL_SSL" for name in ("SCRAM", "PLAIN", "OAUTH")]
    known = " ".join(f'user_{user}="{PASSWORD}"' for user in users)
    return {
        "listeners": f"{advertised},CONTROLLER://127.0.0.1:{{control}}",
        "advertised.listeners": advertised,
        "listener.security.protocol.map": ",".join(protocols),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Who comes over the plain listeners: this test, the broker, the controller.
        "super.users": "User:ANONYMOUS",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority.key_store("broker")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.mtls.ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        **_sasl("SCRAM", "SCRAM-SHA-512", "scram.ScramLoginModule"),
        **_sasl("PLAIN", "PLAIN", "plain.PlainLoginModule", known),
        **_sasl(
            "OAUTH",
            "OAUTHBEARER",
            "oauthbearer.OAuthBearerLoginModule",
            'unsecuredLoginStringClaim_sub="broker"',
        ),
    }


def _sasl(listener: str, mechanism: str, module: str, options: str = "") -> dict[str, str]:
    place = f"listener.name.{listener.lower()}"
    return {
        f"{place}.sasl.enabled.mechanisms": mechanism,
        f"{place}.{mechanism.lower()}.sasl.jaas.config": f"{_MODULES}.{module} required {options};",
    }


class TokenEndpoint:
    """Gives an unsecured token in the name of whoever knows the password."""

    def __init__(self) -> None:
        self._server = HTTPServer(("127.0.0.1", 0), _TokenHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _TokenHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        encoded = self.headers.get("authorization", "").removeprefix("Basic ")
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        if password == PASSWORD:
            self._answer(200, {"access_token": _token(user), "token_type": "Bearer"})
        else:
            self._answer(401, {"error": "invalid_client", "error_description": password})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def _token(user: str) -> str:
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": user, "iat": now, "exp": now + 600})
    return ".".join([*(_base64(part) for part in parts), ""])


def _base64(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
