"""`modelserver dlt`: records that could not be used, listed, shown and sent again."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from consumers.operations.dead_letters import DeadLetters
from producers.dead_letters import read_dead_letter, replayed
from producers.publisher import Publication
from schemas.base import Frozen
from schemas.record import Record
from terminal.output import describe_bytes, print_fields, print_json, print_table
from terminal.wiring import Json, open_app, open_sender

_BATCH = 100

dlt = typer.Typer(help="Dead letters.", no_args_is_help=True)
TopicArgument = Annotated[str, typer.Argument(help="The inbound topic, such as train-requested.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(dlt, name="dlt")


@dlt.command("list")
def list_dead_letters(topic: TopicArgument, json: Json = False) -> None:
    """List a topic's dead letters: where each came from and why it was set aside.

    Example: modelserver dlt list train-requested
    """
    with open_app() as app:
        listed = [_describe(record) for record in DeadLetters(app.settings, topic).all()]
    if json:
        print_json({"dead_letters": listed})
        return
    rows = [[v["partition"], v["offset"], v["code"], v["message"]] for v in listed]
    print_table(f"Dead letters of {topic}", ["partition", "offset", "code", "reason"], rows)


@dlt.command()
def show(
    topic: TopicArgument,
    partition: Annotated[int, typer.Option(min=0, help="The dead letter's own, as in the list.")],
    offset: Annotated[int, typer.Option(min=0, help="The dead letter's own, as in the list.")],
    value: Annotated[
        bool, typer.Option("--value", help="Print the value too; it may be an elder's words.")
    ] = False,
    json: Json = False,
) -> None:
    """Show one dead letter: where it came from, why it was set aside, its key and headers.

    Its value is shown only with --value. Bytes that are not UTF-8 are given in base64.

    Example: modelserver dlt show train-requested --partition 3 --offset 17 --value
    """
    with open_app() as app:
        record = DeadLetters(app.settings, topic).one(partition, offset)
    fields = _describe(record) | _details(record)
    if value:
        fields["value"] = describe_bytes(record.value)
    print_json(fields) if json else print_fields(fields)


@dlt.command()
def replay(
    topic: TopicArgument,
    partition: Annotated[int | None, typer.Option(help="Only of this partition.")] = None,
    offset: Annotated[int | None, typer.Option(help="Only this one; needs --partition.")] = None,
    json: Json = False,
) -> None:
    """Send dead letters to their topic again, with key, value and headers as they came.

    Replay is safe to repeat. An event that was accepted meanwhile is recognised by its id; a
    record without an id gets a header with its first position, by which it is recognised. Of dead
    letters with equal bytes only one is sent, so a record that is refused again becomes one more
    dead letter, not several. A model command is done once, however often it is replayed: the last
    50 changes of each elder are remembered.

    Example: modelserver dlt replay train-requested

    Example: modelserver dlt replay train-requested --partition 3 --offset 17
    """
    if offset is not None and partition is None:
        raise typer.BadParameter("--offset needs --partition: each partition counts for itself")
    with open_app() as app:
        dead_letters = DeadLetters(app.settings, topic)
        records = _chosen(dead_letters, partition, offset)
        outcomes: list[_Outcome] = []
        with open_sender(app) as sender:
            for batch in _batches(_sort_out(records, dead_letters.source)):
                sender.send(*(o.publication for o in batch if o.publication is not None))
                outcomes += [o.model_copy(update={"publication": None}) for o in batch]
    if json:
        print_json(
            {
                name: sum(outcome.what == name for outcome in outcomes)
                for name in ("replayed", "repeated", "left")
            }
        )
        return
    rows = [[o.partition, o.offset, o.what, o.why] for o in outcomes]
    print_table("Replay", ["partition", "offset", "outcome", "why"], rows)


class _Outcome(Frozen):
    """What became of a dead letter: `replayed`, `repeated` (sent already) or `left` in place."""

    partition: int
    offset: int
    what: str
    why: str = ""
    publication: Publication | None = None


def _chosen(
    dead_letters: DeadLetters, partition: int | None, offset: int | None
) -> Iterator[Record]:
    if partition is not None and offset is not None:
        return iter([dead_letters.one(partition, offset)])
    return (record for record in dead_letters.all() if partition in (None, record.partition))


def _sort_out(records: Iterator[Record], source: str) -> Iterator[_Outcome]:
    """Decide about each dead letter; of equal records, only the first is sent."""
    sent: set[bytes] = set()
    for record in records:
        outcome = _decide(record, source)
        if outcome.publication is not None:
            name = hashlib.sha256(repr(outcome.publication).encode()).digest()
            if name in sent:
                outcome = _outcome(record, "repeated", "the same record was sent just now")
            sent.add(name)
        yield outcome


def _decide(record: Record, source: str) -> _Outcome:
    dead = read_dead_letter(record)
    if dead is None or dead.original.topic != source:
        return _outcome(record, "left", "not set aside by ModelServer from this topic")
    if dead.left_out is not None:
        return _outcome(record, "left", f"not whole; left out: {dead.left_out}")
    return _outcome(record, "replayed").model_copy(update={"publication": replayed(dead)})


def _outcome(record: Record, what: str, why: str = "") -> _Outcome:
    return _Outcome(partition=record.partition, offset=record.offset, what=what, why=why)


def _batches(outcomes: Iterator[_Outcome]) -> Iterator[list[_Outcome]]:
    """Group outcomes, so that a topic full of large records is never in memory as a whole."""
    batch: list[_Outcome] = []
    for outcome in outcomes:
        batch.append(outcome)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _describe(record: Record) -> dict[str, Any]:
    """Describe a dead letter as `list` shows it."""
    dead = read_dead_letter(record)
    return {
        "partition": record.partition,
        "offset": record.offset,
        "original_topic": dead.original.topic if dead else None,
        "original_offset": dead.original.offset if dead else None,
        "code": dead.code if dead else "",
        "message": dead.message if dead else "not set aside by ModelServer",
        "bytes": len(record.value or b""),
    }


def _details(record: Record) -> dict[str, Any]:
    """Describe what only `show` adds; never the value."""
    dead = read_dead_letter(record)
    original = dead.original if dead else record
    return {
        "error": dead.error if dead else None,
        "left_out": dead.left_out if dead else None,
        "consumer_group": dead.group if dead else None,
        "original_partition": dead.original.partition if dead else None,
        "original_time": _time(original.timestamp_ms),
        "key": describe_bytes(record.key),
        "headers": [[name, describe_bytes(value)] for name, value in original.headers],
    }


def _time(timestamp_ms: int) -> str | None:
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None  # A producer may write any number there.
