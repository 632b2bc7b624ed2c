"""The page of the topics: each one's shape, field by field."""

from pydantic import TypeAdapter

from schemas.asyncapi import REPLY_TOPICS, SHAPES
from schemas.envelope import event_type
from schemas.model_commands import COMMANDS
from schemas.topics import CATALOGUE, DAY_MS, MODEL_COMMANDS, Topic, all_topics
from schemas.training import TrainingParameters
from tools.docs_reference.json_types import Schema, list_fields
from tools.docs_reference.markdown import code, page, paragraphs, prose, table

_INTRODUCTION = """\
# Topics

What holds for all topics, such as envelopes, keys and delivery, is in [events](../events.md). The
names can be changed by `MODELSERVER_TOPICS`. `modelserver asyncapi` prints the same shapes as
AsyncAPI 3.0."""
_DIRECTIONS = {"in": "in, ModelServer reads it", "out": "out, ModelServer writes it"}
_OVERRIDES = """\
What `overrides` may set. The defaults are those of the program; `training_config.yaml` has others
for the base models:"""
_ALL_PRESENT = "Every field is there; one without a value is null."
_DEAD_LETTERS = """\
## Dead letters

A record of an inbound topic that cannot be used goes to `<topic>-dlt` as it came, with the reason
in `kafka_dlt-*` headers; see `modelserver dlt` in [commands](commands.md)."""


def topics_page() -> str:
    """Render the page."""
    names = [(f"[`{t.name}`](#{t.name})", t.direction, _key(t), t.description) for t in CATALOGUE]
    dead_letter_topics = [t for t in all_topics() if t not in CATALOGUE]
    return page(
        _INTRODUCTION,
        table(["topic", "direction", "key", "meaning"], names),
        *(_section(topic) for topic in CATALOGUE),
        _DEAD_LETTERS,
        table(["topic", "kept for"], [(code(t.name), _retention(t)) for t in dead_letter_topics]),
    )


def _section(topic: Topic) -> str:
    shape = SHAPES[topic.name]
    if topic == MODEL_COMMANDS:
        body = _commands()
    else:
        assert not isinstance(shape, TypeAdapter)
        mode = "validation" if topic.direction == "in" else "serialization"
        schema = shape.model_json_schema(mode=mode)  # type: ignore[arg-type]
        body = _fields(schema, schema.get("$defs", {}), is_inbound=topic.direction == "in")
    if topic.name == "train-requested":
        body = page(body, *_overrides())
    return page(f"## {topic.name}", _facts(topic), body)


def _facts(topic: Topic) -> str:
    facts = [
        topic.description,
        f"- direction: {_DIRECTIONS[topic.direction]}",
        f"- key: {_key(topic)}",
        f"- `ce_type`: `{event_type(topic.name)}`",
        f"- {topic.partitions} partitions, kept for {_retention(topic)}",
    ]
    if reply := REPLY_TOPICS.get(topic.name):
        facts.append(f"- reply: on [`{reply}`](#{reply}), or on the topic that the request names")
    return facts[0] + "\n\n" + "\n".join(facts[1:])


def _commands() -> str:
    schema = COMMANDS.json_schema()
    definitions = schema["$defs"]
    parts = []
    for option in schema["oneOf"]:
        command = definitions[option["$ref"].removeprefix("#/$defs/")]
        names = command["properties"]["command"]
        name = names.get("const") or names["enum"][0]
        parts += [
            f"### {name}",
            "\n\n".join(paragraphs(command.get("description"))),
            _fields(command, definitions, is_inbound=True),
        ]
    return page(*parts)


def _overrides() -> tuple[str, str]:
    schema = TrainingParameters.model_json_schema()
    return _OVERRIDES, _fields(schema, schema["$defs"], is_inbound=True)


def _fields(schema: Schema, definitions: Schema, *, is_inbound: bool) -> str:
    fields = list(list_fields(schema, definitions))
    if not is_inbound:
        present = [(code(f.path), f.type, prose(f.meaning)) for f in fields]
        return page(_ALL_PRESENT, table(["field", "type", "meaning"], present))
    rows = [
        (
            code(f.path),
            f.type,
            "**yes**" if f.is_required else "no",
            code(f.default),
            prose(f.meaning),
        )
        for f in fields
    ]
    return table(["field", "type", "required", "default", "meaning"], rows)


def _key(topic: Topic) -> str:
    return code(topic.key) if topic.key.isidentifier() else topic.key


def _retention(topic: Topic) -> str:
    if topic.compacted:
        return "ever: the newest event of each key (compacted)"
    days = topic.retention_ms // DAY_MS
    return f"{days} day{'s' if days > 1 else ''}"
