"""MongoDB's user, TLS and files are all in MONGODB_URI, and both clients get them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError

from config.settings import MongoSettings
from pipeline.chat.store import ChatStore
from pipeline.storage import mongo as store
from pipeline.storage.mongo import open_client, store_errors
from schemas.errors import StoreRefused


def pymongo_options(settings: MongoSettings) -> Any:
    client = open_client(settings)
    client.close()
    return client.options


def motor_options(settings: MongoSettings) -> Any:
    store = ChatStore(settings)
    store.close()
    return store._client.options


@pytest.mark.parametrize("options_of", [pymongo_options, motor_options])
def test_both_clients_get_user_mechanism_and_tls(
    options_of: Callable[[MongoSettings], Any], tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text(CERTIFICATE, encoding="utf-8")
    uri = (
        "mongodb://modelserver:p%40ss%2Fword@127.0.0.1:1/"
        f"?authSource=family&authMechanism=SCRAM-SHA-256&tls=true&tlsCAFile={ca}"
    )
    options = options_of(MongoSettings(uri=uri, timeout_s=0.1))
    who = options.pool_options._credentials
    assert (who.username, who.password) == ("modelserver", "p@ss/word")
    assert (who.source, who.mechanism) == ("family", "SCRAM-SHA-256")
    assert options.pool_options._ssl_context is not None
    assert options.pool_options.tls_allow_invalid_hostnames is False


@pytest.mark.parametrize("options_of", [pymongo_options, motor_options])
def test_what_both_clients_write_is_on_a_majority_of_disks(
    options_of: Callable[[MongoSettings], Any],
) -> None:
    """A reply lost in a failover after it was published would get another answer the next time."""
    concern = options_of(MongoSettings(timeout_s=0.1)).write_concern
    assert concern.document == {"w": "majority", "j": True}


@pytest.mark.parametrize("code", [13, 18, 8000])
def test_refused_user_is_told_apart_from_a_server_that_is_away(code: int) -> None:
    with pytest.raises(StoreRefused), store_errors():
        raise OperationFailure("Authentication failed.", code)


def test_tls_that_fails_says_so() -> None:
    with pytest.raises(StoreRefused, match="tlsCAFile"), store_errors():
        raise ServerSelectionTimeoutError("h:1: [SSL: CERTIFICATE_VERIFY_FAILED]")


def test_role_of_the_docs_has_every_collection_of_the_service_and_no_other() -> None:
    """With the role once documented the relay could not get its lease, and no event went out."""
    text = Path("docs/security.md").read_text(encoding="utf-8")
    role = text[text.index("db.createRole({") : text.index("db.createUser({")]
    assert re.search(r'collection: "answers"}, actions: \["find"\]', role), "read, never written"
    (own,) = re.findall(r"\.\.\.(\[[^]]*\])\.map", role)
    constants = {name: value for name, value in vars(store).items() if name.isupper()}
    collections = {v for n, v in constants.items() if isinstance(v, str) and n[0] != "_"}
    assert set(json.loads(own)) == collections


# Nobody's certificate: made for this test with openssl; its key was deleted.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBODCB66ADAgECAhRqcN69GDmV+UmkvNOXsyBXlE/TFDAFBgMrZXAwETEPMA0G
A1UEAwwGbm9ib2R5MCAXDTI2MTEyNDA0NTEwOVoYDzIxMjYxMDMxMDQ1MTA5WjAR
MQ8wDQYDVQQDDAZub2JvZHkwKjAFBgMrZXADIQDNH2quY4ey/fv54aEh8MKPjyHC
s1NLiyL2LQ1jE/uIiaNTMFEwHQYDVR0OBBYEFEEhJWrjVbfAt5NUO2h50ri6DzgQ
MB8GA1UdIwQYMBaAFEEhJWrjVbfAt5NUO2h50ri6DzgQMA8GA1UdEwEB/wQFMAMB
Af8wBQYDK2VwA0EAqbGypc1nFE4BcqDgYCoFyxi4HAiwAEhF4Y/oJNQiymkSHU2S
4jP1ZOFQIX97cnQKDPceR2KtTsCExyKco1xwAA==
-----END CERTIFICATE-----
"""
