"""MongoDB with users, roles and TLS, on SecantusDB: the rights in docs/security.md suffice."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from config.settings import MongoSettings
from consumers.operations.doctor import examine
from embedded.process import ServerProcess, free_port, is_port_listened_on_by
from pipeline.chat.store import ChatStore
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import (
    CHAT_DEDUP,
    DATASETS,
    JOBS,
    LEASES,
    MODELS,
    open_client,
    store_errors,
)
from pipeline.storage.named_lease import NamedLease
from schemas.errors import StoreRefused
from schemas.events import ChatReply
from tests.integration.conftest import MakeSettings
from tests.servers.certificates import Authority

DATABASE = "family"
READ = ["find"]
OWN = ["find", "insert", "update", "remove"]
OWN += ["createCollection", "createIndex", "dropIndex", "collMod"]
ROLE = [
    {"resource": {"db": DATABASE, "collection": name}, "actions": actions}
    for name, actions in [("answers", READ)]
    + [(c, OWN) for c in (JOBS, DATASETS, MODELS, CHAT_DEDUP, LEASES)]
]
# As it is, and percent-encoded as in a URI.
PASSWORD, QUOTED = "c0rrect/horse", "c0rrect%2Fhorse"
REPLY = ChatReply(elder_id="LXM", reply="In Whitby.", model="m", duration_ms=1)


class Server:
    """SecantusDB with users and TLS, on data that was prepared without them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = Authority(folder / "ca", "authority")
        self.other_authority = Authority(folder / "other", "another authority")
        (folder / "secantusd.toml").touch()
        port, process = self._start()
        with process, MongoClient[dict[str, Any]](f"mongodb://127.0.0.1:{port}") as client:
            database = client[DATABASE]
            database["answers"].insert_one({"_id": "1", "elderId": "LXM", "answer": "In Whitby."})
            database.command("createRole", "modelserver", privileges=ROLE, roles=[])
            database.command("createUser", "modelserver", pwd=PASSWORD, roles=["modelserver"])
        certificate, key = self.authority.sign("mongodb")
        tls = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key))
        self._port, self.process = self._start("--auth", *tls)

    def _start(self, *arguments: str) -> tuple[int, ServerProcess]:
        port = free_port()
        place = ("--config", str(self._folder / "secantusd.toml"), "--host", "127.0.0.1")
        data = ("--port", str(port), "--storage-path", str(self._folder / "data"))
        return port, ServerProcess(
            "MongoDB (SecantusDB)",
            (sys.executable, "-m", "secantus", *place, *data, *arguments),
            log_path=self._folder / "mongodb.log",
            is_ready=lambda pid: is_port_listened_on_by(pid, port),
        )

    def settings(self, password: str = QUOTED, ca: Path | None = None) -> MongoSettings:
        """The settings of the service's user."""
        options = f"tls=true&tlsCAFile={ca or self.authority.certificate}&authSource={DATABASE}"
        uri = f"mongodb://modelserver:{password}@127.0.0.1:{self._port}/?{options}"
        return MongoSettings(uri=uri, database=DATABASE, timeout_s=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("secantus"))
    with made.process:
        yield made


def test_rights_of_the_service_do_and_end_at_its_database(server: Server) -> None:
    with open_client(server.settings()) as client:
        database = client[DATABASE]
        ensure_indexes(database, dedup_hours=1)
        ensure_indexes(database, dedup_hours=2)
        assert database["answers"].find_one({"elderId": "LXM"}) is not None
        for name in (JOBS, DATASETS, MODELS):
            own = database[name]
            own.insert_one({"_id": "1", "status": "queued", "folded_id": "1"})
            own.update_one({"_id": "1"}, {"$set": {"status": "failed"}})
            own.delete_one({"_id": "1"})
        lease = NamedLease(database, "relay", "this process", lease_s=5)
        assert lease.acquire()
        lease.release()
        # MongoDB also grants rights by collection; SecantusDB only by database.
        with pytest.raises(StoreRefused), store_errors():
            client["other"][JOBS].insert_one({"_id": "2"})


def test_chat_reads_and_remembers(server: Server) -> None:
    async def talk() -> tuple[bool, ChatReply]:
        store = ChatStore(server.settings())
        try:
            await store.ping()
            stored = await store.remember_reply("1", REPLY)
            assert await store.recall_reply("1") == stored
            return await store.is_known("LXM"), stored.reply
        finally:
            store.close()

    assert asyncio.run(talk()) == (True, REPLY)


def test_wrong_password_is_reported_and_not_shown(
    server: Server, make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path).model_copy(update={"mongodb": server.settings("wr0ng")})
    (finding,) = (f for f in examine(settings) if f.name == "mongodb")
    assert (finding.ok, finding.exit_code, finding.found) == (False, 69, StoreRefused().message)
    assert "wr0ng" not in finding.model_dump_json()


def test_server_that_another_authority_signed_is_not_talked_to(server: Server) -> None:
    settings = server.settings(ca=server.other_authority.certificate)
    with (
        open_client(settings) as client,
        pytest.raises(StoreRefused, match="tlsCAFile"),
        store_errors(),
    ):
        client.server_info()


def test_user_that_is_missing_is_reported(
    server: Server, make_settings: MakeSettings, tmp_path: Path
) -> None:
    """The server gives its version to any client, but no answers."""
    uri = server.settings().uri.get_secret_value().replace(f"modelserver:{QUOTED}@", "")
    mongodb = MongoSettings(uri=uri.split("&authSource")[0], database=DATABASE, timeout_s=1)
    settings = make_settings(tmp_path).model_copy(update={"mongodb": mongodb})
    (finding,) = (f for f in examine(settings) if f.name == "mongodb")
    assert (finding.ok, finding.found) == (False, StoreRefused().message)
