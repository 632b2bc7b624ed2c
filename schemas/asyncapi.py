"""The AsyncAPI 3.0 description of the topics, made from the models that check them."""

from typing import Any

from pydantic import BaseModel, TypeAdapter

from schemas.envelope import event_type
from schemas.events import (
    AnswersUpdated,
    ChatReply,
    ChatRequest,
    DatasetReady,
    ModelReady,
    TrainProgress,
    TrainRequested,
)
from schemas.model_commands import COMMANDS, ModelReply
from schemas.topics import CATALOGUE, Topic

REPLY_TOPICS = {"chat-requests": "chat-replies", "model-commands": "model-replies"}
"""Where the reply to a request goes unless the request names a topic."""
SHAPES: dict[str, type[BaseModel] | TypeAdapter[Any]] = {
    "answers-updated": AnswersUpdated,
    "train-requested": TrainRequested,
    "dataset-ready": DatasetReady,
    "train-progress": TrainProgress,
    "model-ready": ModelReady,
    "chat-requests": ChatRequest,
    "chat-replies": ChatReply,
    "model-commands": COMMANDS,
    "model-replies": ModelReply,
}
"""The model that checks the data of each topic."""


def describe_topics() -> dict[str, Any]:
    """Describe every topic of the catalogue, its message, and where replies to it go."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "传家之宝 ModelServer", "version": "1"},
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in CATALOGUE},
        "operations": {_operation_name(topic): _operation(topic) for topic in CATALOGUE},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    shape = SHAPES[topic.name]
    is_adapter = isinstance(shape, TypeAdapter)
    payload = shape.json_schema() if is_adapter else shape.model_json_schema()  # type: ignore[union-attr]
    return {
        "address": topic.name,
        "description": topic.description,
        "messages": {
            "event": {
                "name": event_type(topic.name),
                "contentType": "application/json",
                "payload": {
                    "schemaFormat": "application/schema+json;version=draft-2020-12",
                    "schema": payload,
                },
            }
        },
        "bindings": {"kafka": {"partitions": topic.partitions, "topicConfiguration": {}}},
    }


def _operation_name(topic: Topic) -> str:
    return f"{'receive' if topic.direction == 'in' else 'send'}-{topic.name}"


def _operation(topic: Topic) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": "receive" if topic.direction == "in" else "send",
        "channel": {"$ref": f"#/channels/{topic.name}"},
    }
    if topic.name in REPLY_TOPICS:
        operation["reply"] = {"channel": {"$ref": f"#/channels/{REPLY_TOPICS[topic.name]}"}}
    return operation
