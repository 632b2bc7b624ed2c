"""`modelserver dlt`: records that could not be used, listed and sent again."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from config.settings import Settings
from consumers.app import App
from consumers.cli.output import print_json, print_table
from consumers.cli.wiring import Json, open_app, open_sender
from consumers.loop import to_record
from consumers.topics import broker_name
from producers.dead_letters import ERROR_CODE, PREFIX
from producers.publisher import Publication
from schemas.errors import KafkaUnavailable, UnknownCommand
from schemas.record import Record
from schemas.topics import CATALOGUE, dead_letter_topic

_LIMIT_S = 10.0

dlt = typer.Typer(help="Dead letters.", no_args_is_help=True)
TopicArgument = Annotated[str, typer.Argument(help="The inbound topic, as in train-requested.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(dlt, name="dlt")


@dlt.command("list")
def list_letters(topic: TopicArgument, json: Json = False) -> None:
    """List a topic's dead letters: where each came from and why it was set aside.

    Example: modelserver dlt list train-requested
    """
    with open_app() as app:
        letters = [_describe(record) for record in _letters(app.settings, topic)]
    if json:
        print_json({"dead_letters": letters})
        return
    rows = [[v["partition"], v["offset"], v["code"], v["message"]] for v in letters]
    print_table(f"Dead letters of {topic}", ["partition", "offset", "code", "reason"], rows)


@dlt.command()
def replay(
    topic: TopicArgument,
    partition: Annotated[int | None, typer.Option(help="Of this partition alone.")] = None,
    offset: Annotated[int | None, typer.Option(help="This one alone; needs --partition.")] = None,
    json: Json = False,
) -> None:
    """Send dead letters to their topic again, with key, value and headers as they came.

    Safe to repeat: an event that was accepted meanwhile is known by its id.
    Example: modelserver dlt replay train-requested --partition 3 --offset 17
    """
    with open_app() as app:
        chosen = [
            record
            for record in _letters(app.settings, topic)
            if partition in (None, record.partition) and offset in (None, record.offset)
        ]
        _send_again(app, chosen)
    if json:
        print_json({"replayed": len(chosen)})
    else:
        print_table("Replayed", ["partition", "offset"], [[r.partition, r.offset] for r in chosen])


def _send_again(app: App, letters: list[Record]) -> None:
    with open_sender(app) as sender:
        sender.send(
            *(
                Publication(
                    topic=(letter.header(f"{PREFIX}original-topic") or b"").decode(),
                    key=letter.key,
                    value=letter.value,
                    headers=tuple(
                        (name, value)
                        for name, value in letter.headers
                        if not name.startswith(PREFIX) and name != ERROR_CODE
                    ),
                    partition=int.from_bytes(
                        letter.header(f"{PREFIX}original-partition") or b"", "big"
                    ),
                )
                for letter in letters
            )
        )


def _letters(settings: Settings, topic: str) -> Iterator[Record]:
    """Read all dead letters there are now; raises KafkaUnavailable."""
    source = next((t for t in CATALOGUE if t.name == topic and t.direction == "in"), None)
    if source is None:
        known = ", ".join(t.name for t in CATALOGUE if t.direction == "in")
        raise UnknownCommand(f"TOPIC: expected one of: {known}")
    name = broker_name(settings, dead_letter_topic(source))
    consumer = Consumer(
        settings.kafka.client()
        | {
            "group.id": f"{settings.kafka.group_prefix}-dlt",
            "enable.auto.commit": False,
            # The end is where the broker says so while reading: the end offset it tells
            # beforehand can be too small (the embedded one counts one record of a batch).
            "enable.partition.eof": True,
        }
    )
    try:
        found = consumer.list_topics(name, timeout=_LIMIT_S).topics[name]
        yield from _read(consumer, name, set(found.partitions))
    finally:
        consumer.close()


def _read(consumer: Consumer, name: str, unread: set[int]) -> Iterator[Record]:
    consumer.assign([TopicPartition(name, partition, OFFSET_BEGINNING) for partition in unread])
    while unread:
        message = consumer.poll(_LIMIT_S)
        if message is None:
            raise KafkaUnavailable
        error = message.error()
        if error is None:
            yield to_record(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            unread.discard(message.partition() or 0)
        elif not error.retriable():
            raise KafkaUnavailable


def _describe(record: Record) -> dict[str, Any]:
    def text(name: str) -> str:
        return (record.header(name) or b"").decode(errors="replace")

    return {
        "partition": record.partition,
        "offset": record.offset,
        "original_topic": text(f"{PREFIX}original-topic"),
        "original_offset": int.from_bytes(
            record.header(f"{PREFIX}original-offset") or b"", "big", signed=True
        ),
        "code": text(ERROR_CODE),
        "message": text(f"{PREFIX}exception-message"),
        "bytes": len(record.value or b""),
    }
