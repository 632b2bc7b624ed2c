"""TLS, every way to log in, and the rights of schemas/access.py on a broker that checks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from config.kafka import KafkaSettings
from config.metrics import Metrics
from config.settings import Settings
from consumers.app import ROLES, App, RoleName
from consumers.operations.admin import KafkaAdmin
from consumers.operations.doctor import examine
from consumers.operations.topics import apply_topics, broker_name
from producers.publisher import KafkaPublisher, Publication
from schemas.access import Right, all_rights, topics_of
from schemas.errors import KafkaRefused, TopicRefused
from schemas.topics import all_topics
from tests.integration.wire import Wire
from tests.servers.secured_kafka import KEY_PASSWORD, PASSWORD, SecuredKafka
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings

LIMIT_S = 10.0
BASE = "smollm2-135m-instruct"
USERS = (*ROLES, "operator", "newcomer", "stranger")
WRONG: dict[str, dict[str, Any]] = {
    "SCRAM": {"password": "wr0ng-horse"},
    "PLAIN": {"password": "wr0ng-horse"},
    "OAUTH": {"client_secret": "wr0ng-horse"},
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with SecuredKafka(tmp_path_factory.mktemp("secured"), USERS) as secured:
        yield secured


class Room:
    """One set of topics and groups on the broker, and each user's view of it."""

    def __init__(self, broker: SecuredKafka, settings: Settings) -> None:
        self.broker = broker
        self._settings = settings
        self.wire = Wire(broker.kafka.bootstrap_servers)

    def settings(self, user: str, way: str = "SCRAM", **over: Any) -> Settings:
        """The settings of a user."""
        kafka = self._settings.kafka.model_dump(exclude={"security", "bootstrap_servers"})
        mine = KafkaSettings(**kafka, **self.broker.client(user, way, **over))
        return self._settings.model_copy(update={"kafka": mine})

    def name(self, topic: str) -> str:
        """The broker's name of a topic."""
        (found,) = (t for t in all_topics() if t.name == topic)
        return broker_name(self._settings, found)

    def grant(self, right: Right, user: str | None = None) -> None:
        """Give a right to its principal, or to another user."""
        in_group = right.resource == "group"
        name = self._settings.kafka.group(right.name) if in_group else self.name(right.name)
        self.broker.grant(right, user or right.principal, name)

    def send(self, topic: str, data: object, case: str, *headers: tuple[str, bytes]) -> None:
        """Send JSON, or bytes as they are, with a header by which it is known again."""
        value = data if isinstance(data, bytes) else json.dumps(data).encode()
        marks = (("case", case.encode()), ("kafka_correlationId", case.encode()))
        self.wire.send(self.name(topic), value, *(headers or marks), key=b"k")

    def seen(self, topic: str, has: bytes, what: str) -> None:
        """Wait for a record on a topic with these bytes in a header or its value."""
        name = self.name(topic)

        def is_it(record: Any) -> bool:
            return record.topic == name and (
                has in (record.value or b"") or any(has == value for _, value in record.headers)
            )

        self.wire.find(is_it, what)


@pytest.fixture(scope="module")
def room(
    broker: SecuredKafka, make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Room]:
    """All rights of the list and no other; the topics are made by the operator."""
    made = Room(broker, make_settings(tmp_path_factory.mktemp("service")))
    for right in all_rights():
        made.grant(right)
    applied = apply_topics(made.settings("operator"), partitions=3)
    assert {one.outcome for one in applied} == {"created"}
    made.wire.read([made.name(topic.name) for topic in all_topics()])
    yield made
    made.wire.close()


@contextmanager
def running(settings: Settings, roles: Sequence[RoleName]) -> Iterator[App]:
    """Run roles as one user."""
    app, stop = App(settings), threading.Event()
    thread = threading.Thread(target=lambda: app.run(roles, stop))
    thread.start()
    try:
        yield app
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive(), "the service must stop"


@pytest.fixture(scope="module")
def roles(room: Room) -> Iterator[dict[str, App]]:
    """Each role as a user of its own."""
    with ExitStack() as stack:
        apps: dict[str, App] = {
            role: stack.enter_context(running(room.settings(role), [role])) for role in ROLES
        }
        for role, app in apps.items():
            wait_for(partial(is_ready, app, role), f"{role} has partitions")
        yield apps


def is_ready(app: App, role: str) -> bool:
    """Say whether a role has started and nothing is amiss."""
    return role in app.health._assigned and not app.health.faults_of_readiness()


# -- who we are -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["SCRAM", "PLAIN", "OAUTH", "MTLS"])
def test_operator_gets_in_each_way_and_may_write(room: Room, way: str) -> None:
    settings = room.settings("operator", way)
    assert len(KafkaAdmin(settings.kafka).metadata(LIMIT_S).brokers) == 1
    sent = Publication(topic=room.name("train-requested"), key=b"k", value=b"", headers=())
    with KafkaPublisher(settings.kafka, Metrics()) as publisher:
        publisher.publish(sent).result(LIMIT_S)


@pytest.mark.parametrize("way", sorted(WRONG))
def test_wrong_password_is_said_and_not_shown(room: Room, way: str) -> None:
    settings = room.settings("operator", way, **WRONG[way])
    with pytest.raises(KafkaRefused, match="does not accept who we say we are") as caught:
        KafkaAdmin(settings.kafka).topics(LIMIT_S)
    assert "wr0ng" not in caught.value.message


def test_certificate_that_is_missing_is_said(room: Room) -> None:
    settings = room.settings("operator", "MTLS", tls={"ca": room.broker.authority.certificate})
    with pytest.raises(KafkaRefused, match="client's own certificate"):
        KafkaAdmin(settings.kafka).topics(LIMIT_S)


def test_broker_that_another_authority_signed_is_not_talked_to(room: Room) -> None:
    other = {"ca": room.broker.other_authority.certificate}
    findings = {f.name: f for f in examine(room.settings("operator", tls=other))}
    assert "tls.ca" in findings["kafka"].found
    assert (findings["kafka"].ok, findings["kafka"].exit_code) == (False, 69)


def test_doctor_of_a_user_with_a_wrong_password_exits_with_69(room: Room) -> None:
    base = room.settings("operator").base(room.settings("operator").training(), BASE)
    base.gguf_path.parent.mkdir(parents=True)
    base.gguf_path.touch()
    client = room.broker.client("operator")
    place = "MODELSERVER_KAFKA__SECURITY__"
    environment = {name: v for name, v in os.environ.items() if not name.startswith("MODELSERVER_")}
    environment |= {
        "KAFKA_BOOTSTRAP_SERVERS": client["bootstrap_servers"],
        f"{place}PROTOCOL": "SASL_SSL",
        f"{place}USERNAME": "operator",
        f"{place}PASSWORD": "wr0ng-horse",
        f"{place}TLS__CA": str(client["security"]["tls"]["ca"]),
        "MONGODB_URI": "mongodb://u:wr0ng-staple@127.0.0.1:9",
        "MODELSERVER_MONGODB__TIMEOUT_S": "0.2",
        "OLLAMA_HOST": "http://127.0.0.1:9",
        "MODELSERVER_CURRENT_MODEL": BASE,
        "MODELSERVER_MODEL_DIR": str(room.settings("operator").model_dir),
    }
    command = (sys.executable, "-m", "cli.main", "doctor", "--json")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert (result.returncode, checks["kafka"]["exit_code"]) == (69, 69)
    assert "user name, password" in checks["kafka"]["found"]
    assert "wr0ng" not in result.stdout + result.stderr


# -- what we may ------------------------------------------------------------------------------


def test_operator_repeats_what_is_there_and_the_doctor_is_content(room: Room) -> None:
    outcomes = {one.outcome for one in apply_topics(room.settings("operator"), partitions=3)}
    assert outcomes == {"exists"}
    findings = {f.name: f for f in examine(room.settings("operator"))}
    assert findings["kafka"].ok and findings["topics"].ok


def test_each_role_works_with_its_own_rights_and_no_others(
    room: Room, roles: dict[str, App]
) -> None:
    """Reads, answers, and sets aside; nothing here was created or may be."""
    app = roles["answers"]
    answer = {"elderId": "A1", "question": "Where were you born?", "answer": "In Whitby."}
    app.store["answers"].insert_one({"_id": "A1-0", **answer})
    room.send("answers-updated", {"elder_id": "A1"}, "built")
    room.seen("dataset-ready", b'"A1"', "a data set")
    room.send("train-requested", {"elder_id": "A2", "elder_name": "x", "job_id": "j2"}, "train")
    room.seen("train-progress", b'"unknown_elder"', "the end of a job")
    room.send("chat-requests", {"elder_id": "A9", "message": "Hello?"}, "chat")
    room.seen("chat-replies", b"chat", "a reply")
    room.send("model-commands", {"command": "list"}, "models")
    room.seen("model-replies", b"models", "a reply")
    for role in ROLES:
        reads = topics_of(role)[0].name
        room.send(reads, b"no json", "", ("case", b"bad " + role.encode()))
        room.seen(f"{reads}-dlt", b"bad " + role.encode(), f"a dead letter of {role}")
    ready = Publication(topic=room.name("model-ready"), key=b"k", value=b"{}", headers=())
    roles["training"].publisher.confirm([ready])


def test_each_role_may_write_nothing_else(room: Room, roles: dict[str, App]) -> None:
    writable = {(r.principal, r.name) for r in all_rights() if r.operation == "Write"}
    tried: dict[tuple[str, str], Future[None]] = {}
    for role, app in roles.items():
        for topic in all_topics():
            if (role, topic.name) not in writable:
                sent = Publication(topic=room.name(topic.name), key=None, value=b"", headers=())
                tried[role, topic.name] = app.publisher.publish(sent)
    refused = {what: type(future.exception(LIMIT_S)) for what, future in tried.items()}
    assert set(refused.values()) == {TopicRefused}, refused


def test_reply_to_a_topic_that_we_may_not_write_blocks_nobody(
    room: Room, roles: dict[str, App]
) -> None:
    """The allow-list lets it, the broker does not: a dead letter, not a try for ever."""
    for topic in ("chat-requests", "model-commands"):
        place = ("kafka_replyTopic", b"somebody.replies")
        case = ("case", b"forbidden " + topic.encode())
        data = {"elder_id": "A9", "message": "Hello?", "command": "list"}
        room.send(topic, data, "", place, case)
        room.seen(f"{topic}-dlt", case[1], "its dead letter")
    room.send("chat-requests", {"elder_id": "A9", "message": "Still there?"}, "after")
    room.seen("chat-replies", b"after", "a reply to the next one")


# -- what is missing --------------------------------------------------------------------------


def test_user_without_rights_is_told_what_to_grant(room: Room) -> None:
    with pytest.raises(KafkaRefused, match=r"topics apply.*docs/security\.md"):
        apply_topics(room.settings("stranger"))


def test_missing_rights_are_told_one_by_one_and_work_begins_when_they_are_granted(
    room: Room,
) -> None:
    """A second chat user, in a group of its own, who gets right after right."""
    settings = room.settings("newcomer")
    kafka = settings.kafka.model_copy(update={"group_prefix": f"{settings.kafka.group_prefix}-new"})
    settings = settings.model_copy(update={"kafka": kafka})
    rights = {(r.operation, r.resource, r.name): r for r in all_rights() if r.principal == "chat"}
    with capture_logs() as logs, running(settings, ["chat"]) as app:
        wait_for(lambda: told(logs, "app.waits", "chat-"), "topics cannot be seen")
        for topic in topics_of("chat"):
            see = Right(principal="x", operation="Describe", resource="topic", name=topic.name)
            room.grant(see, "newcomer")
        wait_for(lambda: "group" in app.health.faults_of_readiness().get("chat", ""), "no group")
        assert told(logs, "consumer.refused", "consumer group")
        group = rights["Read", "group", "chat"]
        room.broker.grant(group, "newcomer", kafka.group("chat"))
        wait_for(lambda: "topic" in app.health.faults_of_readiness().get("chat", ""), "no topic")
        assert told(logs, "consumer.refused", "forbids this user the topic")
        room.grant(rights["Read", "topic", "chat-requests"], "newcomer")
        wait_for(lambda: told(logs, "publisher.refused", "all writing"), "it may not write")
        wait_for(lambda: "publisher" in app.health.faults_of_readiness(), "not ready")
        room.grant(rights["Write", "topic", "chat-replies"], "newcomer")
        room.grant(rights["Write", "topic", "chat-requests-dlt"], "newcomer")
        room.send("chat-requests", {"elder_id": "A9", "message": "Now?"}, "granted")
        wait_for(lambda: not app.health.faults_of_readiness(), "everything is granted")
    text = json.dumps(logs, default=str)
    assert PASSWORD not in text and KEY_PASSWORD not in text


def told(logs: Sequence[Any], event: str, reason: str) -> bool:
    """Say whether an event was logged for this reason."""
    return any(e["event"] == event and reason in e.get("reason", "") for e in list(logs))
