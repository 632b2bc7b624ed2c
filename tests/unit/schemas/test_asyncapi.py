"""The AsyncAPI description says what the models check."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from schemas.asyncapi import describe_topics
from schemas.topics import CATALOGUE

DESCRIPTION = json.loads(json.dumps(describe_topics()))


def payload(topic: str) -> dict[str, Any]:
    event = DESCRIPTION["channels"][topic]["messages"]["event"]
    schema: dict[str, Any] = event["payload"]["schema"]
    return schema


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_topic_is_a_channel_with_an_operation() -> None:
    names = {topic.name for topic in CATALOGUE}
    assert set(DESCRIPTION["channels"]) == names
    assert len(DESCRIPTION["operations"]) == len(names)
    for topic in CATALOGUE:
        action = "receive" if topic.direction == "in" else "send"
        assert DESCRIPTION["operations"][f"{action}-{topic.name}"]["action"] == action


def test_requests_say_where_the_reply_comes() -> None:
    operations = DESCRIPTION["operations"]
    reply = operations["receive-chat-requests"]["reply"]["channel"]["$ref"]
    assert reply == "#/channels/chat-replies"
    assert "reply" in operations["receive-model-commands"]
    assert "reply" not in operations["receive-train-requested"]


def test_channel_references_lead_somewhere() -> None:
    for operation in DESCRIPTION["operations"].values():
        for reference in references(operation):
            assert reference.removeprefix("#/channels/") in DESCRIPTION["channels"]


@pytest.mark.parametrize("topic", [t.name for t in CATALOGUE])
def test_schema_of_a_message_stands_where_its_references_point(topic: str) -> None:
    """`$ref: #/$defs/X` is looked up from the root of the document it stands in."""
    root, schema = DESCRIPTION, payload(topic)
    for reference in references(schema):
        found: Any = root if not reference.startswith("#/$defs/") else schema
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_required_fields_are_those_of_the_design() -> None:
    assert payload("train-requested")["required"] == ["elder_id", "elder_name"]
    assert payload("answers-updated")["required"] == ["elder_id"]
    assert payload("chat-requests")["required"] == ["elder_id", "message"]


def test_event_types_follow_the_topics() -> None:
    for topic in CATALOGUE:
        message = DESCRIPTION["channels"][topic.name]["messages"]["event"]
        assert message["name"] == f"heirloom.{topic.name}.v1"


@pytest.mark.parametrize("topic", [t.name for t in CATALOGUE])
def test_every_field_says_what_it_means(topic: str) -> None:
    schema = payload(topic)
    shapes = {"": schema, **schema.get("$defs", {})}
    assert [
        f"{shape}.{name}"
        for shape, content in shapes.items()
        for name, field in content.get("properties", {}).items()
        if not field.get("description")
    ] == []
