"""TLS, every way to authenticate, and the rights of schemas/access.py, on a broker that checks."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from config.metrics import Metrics
from config.settings import Settings
from consumers.app import ROLES, App, RoleName
from consumers.operations.admin import KafkaAdmin
from consumers.operations.doctor import examine
from consumers.operations.topics import apply_topics
from producers.publisher import KafkaPublisher, Publication
from schemas.access import Right, all_rights, topics_of
from schemas.errors import KafkaRefused, TopicRefused
from schemas.topics import all_topics
from tests.integration.conftest import MakeSettings
from tests.integration.kafka.secured_topics import SecuredTopics
from tests.servers.secured_kafka import KEY_PASSWORD, PASSWORD, SecuredKafka
from tests.waiting import wait_for

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


@pytest.fixture(scope="module")
def topics(
    broker: SecuredKafka, make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecuredTopics]:
    """Topics made by the operator, and for each principal the rights of the list and no others."""
    made = SecuredTopics(broker, make_settings(tmp_path_factory.mktemp("service")))
    for right in all_rights():
        made.grant(right)
    applied = apply_topics(made.settings("operator"), partitions=3)
    assert {one.outcome for one in applied} == {"created"}
    made.wire.read([made.name(topic.name) for topic in all_topics()])
    yield made
    made.wire.close()


@contextmanager
def running(settings: Settings, roles: Sequence[RoleName]) -> Iterator[App]:
    """Run roles as the user of these settings."""
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
def roles(topics: SecuredTopics) -> Iterator[dict[str, App]]:
    """Each role, running as a user of its own."""
    with ExitStack() as stack:
        apps: dict[str, App] = {
            role: stack.enter_context(running(topics.settings(role), [role])) for role in ROLES
        }
        for role, app in apps.items():
            wait_for(partial(is_ready, app, role), f"{role} has partitions")
        yield apps


def is_ready(app: App, role: str) -> bool:
    """Say whether a role has started, has partitions and reaches everything it needs."""
    return role in app.health._assigned and not app.health.faults_of_readiness()


# -- authentication -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["SCRAM", "PLAIN", "OAUTH", "MTLS"])
def test_operator_gets_in_each_way_and_may_write(topics: SecuredTopics, way: str) -> None:
    settings = topics.settings("operator", way)
    assert len(KafkaAdmin(settings.kafka).metadata(LIMIT_S).brokers) == 1
    sent = Publication(topic=topics.name("train-requested"), key=b"k", value=b"", headers=())
    with KafkaPublisher(settings.kafka, Metrics()) as publisher:
        publisher.publish(sent).result(LIMIT_S)


@pytest.mark.parametrize("way", sorted(WRONG))
def test_wrong_password_is_said_and_not_shown(topics: SecuredTopics, way: str) -> None:
    settings = topics.settings("operator", way, **WRONG[way])
    with pytest.raises(KafkaRefused, match="does not accept who we say we are") as caught:
        KafkaAdmin(settings.kafka).topics(LIMIT_S)
    assert "wr0ng" not in caught.value.message


def test_certificate_that_is_missing_is_said(topics: SecuredTopics) -> None:
    settings = topics.settings("operator", "MTLS", tls={"ca": topics.broker.authority.certificate})
    with pytest.raises(KafkaRefused, match="client's own certificate"):
        KafkaAdmin(settings.kafka).topics(LIMIT_S)


def test_broker_that_another_authority_signed_is_not_talked_to(topics: SecuredTopics) -> None:
    other = {"ca": topics.broker.other_authority.certificate}
    findings = {f.name: f for f in examine(topics.settings("operator", tls=other))}
    assert "tls.ca" in findings["kafka"].found
    assert (findings["kafka"].ok, findings["kafka"].exit_code) == (False, 69)


def test_doctor_of_a_user_with_a_wrong_password_exits_with_69(topics: SecuredTopics) -> None:
    base = topics.settings("operator").base(topics.settings("operator").training(), BASE)
    base.gguf_path.parent.mkdir(parents=True)
    base.gguf_path.touch()
    client = topics.broker.client("operator")
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
        "MODELSERVER_MODEL_DIR": str(topics.settings("operator").model_dir),
    }
    command = (sys.executable, "-m", "cli.main", "doctor", "--json")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert (result.returncode, checks["kafka"]["exit_code"]) == (69, 69)
    assert "user name, password" in checks["kafka"]["found"]
    assert "wr0ng" not in result.stdout + result.stderr


# -- authorization ------------------------------------------------------------------------------


def test_operator_repeats_what_is_there_and_the_doctor_is_content(topics: SecuredTopics) -> None:
    outcomes = {one.outcome for one in apply_topics(topics.settings("operator"), partitions=3)}
    assert outcomes == {"exists"}
    findings = {f.name: f for f in examine(topics.settings("operator"))}
    assert findings["kafka"].ok and findings["topics"].ok


def test_each_role_works_with_its_own_rights_and_no_others(
    topics: SecuredTopics, roles: dict[str, App]
) -> None:
    """Each role reads its topic, answers, and writes dead letters; none may create a topic."""
    app = roles["answers"]
    answer = {"elderId": "A1", "question": "Where were you born?", "answer": "In Whitby."}
    app.store["answers"].insert_one({"_id": "A1-0", **answer})
    topics.send("answers-updated", {"elder_id": "A1"}, "built")
    topics.seen("dataset-ready", b'"A1"', "a data set")
    topics.send("train-requested", {"elder_id": "A2", "elder_name": "x", "job_id": "j2"}, "train")
    topics.seen("train-progress", b'"unknown_elder"', "the end of a job")
    topics.send("chat-requests", {"elder_id": "A9", "message": "Hello?"}, "chat")
    topics.seen("chat-replies", b"chat", "a reply")
    topics.send("model-commands", {"command": "list"}, "models")
    topics.seen("model-replies", b"models", "a reply")
    for role in ROLES:
        reads = topics_of(role)[0].name
        topics.send(reads, b"no json", "", ("case", b"bad " + role.encode()))
        topics.seen(f"{reads}-dlt", b"bad " + role.encode(), f"a dead letter of {role}")
    ready = Publication(topic=topics.name("model-ready"), key=b"k", value=b"{}", headers=())
    roles["training"].publisher.confirm([ready])


def test_each_role_may_write_nothing_else(topics: SecuredTopics, roles: dict[str, App]) -> None:
    writable = {(r.principal, r.name) for r in all_rights() if r.operation == "Write"}
    tried: dict[tuple[str, str], Future[None]] = {}
    for role, app in roles.items():
        for topic in all_topics():
            if (role, topic.name) not in writable:
                sent = Publication(topic=topics.name(topic.name), key=None, value=b"", headers=())
                tried[role, topic.name] = app.publisher.publish(sent)
    refused = {what: type(future.exception(LIMIT_S)) for what, future in tried.items()}
    assert set(refused.values()) == {TopicRefused}, refused


def test_reply_to_a_topic_that_we_may_not_write_blocks_nobody(
    topics: SecuredTopics, roles: dict[str, App]
) -> None:
    """The allow-list names the topic and the broker forbids it: a dead letter, and no retries."""
    for topic in ("chat-requests", "model-commands"):
        place = ("kafka_replyTopic", b"somebody.replies")
        case = ("case", b"forbidden " + topic.encode())
        data = {"elder_id": "A9", "message": "Hello?", "command": "list"}
        topics.send(topic, data, "", place, case)
        topics.seen(f"{topic}-dlt", case[1], "its dead letter")
    topics.send("chat-requests", {"elder_id": "A9", "message": "Still there?"}, "after")
    topics.seen("chat-replies", b"after", "a reply to the next one")


# -- missing rights --------------------------------------------------------------------------


def test_user_without_rights_is_told_what_to_grant(topics: SecuredTopics) -> None:
    with pytest.raises(KafkaRefused, match=r"topics apply.*docs/security\.md"):
        apply_topics(topics.settings("stranger"))


def test_missing_rights_are_told_one_by_one_and_work_begins_when_they_are_granted(
    topics: SecuredTopics,
) -> None:
    """A second chat user, in a group of its own, is granted one right after the other."""
    settings = topics.settings("newcomer")
    kafka = settings.kafka.model_copy(update={"group_prefix": f"{settings.kafka.group_prefix}-new"})
    settings = settings.model_copy(update={"kafka": kafka})
    rights = {(r.operation, r.resource, r.name): r for r in all_rights() if r.principal == "chat"}
    with capture_logs() as logs, running(settings, ["chat"]) as app:
        # Without any right it does not see its topics, and waits.
        wait_for(lambda: told(logs, "app.waits", "chat-"), "the app waits for its topics")
        for topic in topics_of("chat"):
            see = Right(principal="x", operation="Describe", resource="topic", name=topic.name)
            topics.grant(see, "newcomer")
        # It sees them, but may not join its group.
        wait_for(lambda: "group" in fault(app, "chat"), "the group is refused")
        assert told(logs, "consumer.refused", "consumer group")
        group = rights["Read", "group", "chat"]
        topics.broker.grant(group, "newcomer", kafka.group("chat"))
        # It is in its group, but may not read the topic.
        wait_for(lambda: "topic" in fault(app, "chat"), "the topic is refused")
        assert told(logs, "consumer.refused", "forbids this user the topic")
        topics.grant(rights["Read", "topic", "chat-requests"], "newcomer")
        # It reads requests, but may not write its replies.
        wait_for(lambda: told(logs, "publisher.refused", "all writing"), "writing is refused")
        wait_for(lambda: fault(app, "publisher"), "the publisher is not ready")
        topics.grant(rights["Write", "topic", "chat-replies"], "newcomer")
        topics.grant(rights["Write", "topic", "chat-requests-dlt"], "newcomer")
        # With every right it is ready.
        topics.send("chat-requests", {"elder_id": "A9", "message": "Now?"}, "granted")
        wait_for(lambda: not app.health.faults_of_readiness(), "the app is ready")
    text = json.dumps(logs, default=str)
    assert PASSWORD not in text and KEY_PASSWORD not in text


def fault(app: App, name: str) -> str:
    """Return why a role or a server is not ready; an empty text if it is."""
    return app.health.faults_of_readiness().get(name, "")


def told(logs: Sequence[Any], event: str, reason: str) -> bool:
    """Say whether an event was logged for this reason."""
    return any(e["event"] == event and reason in e.get("reason", "") for e in list(logs))
