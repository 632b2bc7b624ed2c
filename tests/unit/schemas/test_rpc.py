"""Request and reply as Spring and NestJS speak it."""

import json
import struct

import pytest

from producers.replies import Replies, Reply, error_header
from schemas.errors import ReplyTopicRefused
from schemas.record import Header
from schemas.rpc import decode_partition, read_target
from schemas.topics import CATALOGUE, CHAT_REPLIES, MODEL_REPLIES
from tests.fakes.clock import fixed_clock
from tests.fakes.records import record

RAW_UUID = bytes.fromhex("ff00fe0102030405060708090a0b0cc3")


def replies(*allowed: str) -> Replies:
    return Replies("source", lambda name: f"prod.{name}", allowed, fixed_clock)


@pytest.mark.parametrize(
    ("raw", "partition"),
    [
        (struct.pack(">i", 0), 0),
        (struct.pack(">i", 7), 7),
        (struct.pack(">i", 48), 48),
        (struct.pack(">i", 70_000), 70_000),
        (b"0", 0),
        (b"7", 7),
        (b"11", 11),
        (b"1234", 1234),
        (b"123456", 123456),
    ],
)
def test_partition_is_read_in_springs_and_in_nestjs_way(raw: bytes, partition: int) -> None:
    assert decode_partition(raw) == partition


@pytest.mark.parametrize("raw", [None, b"", b"x", b"-1", b"1.5", b"\x00", b"9" * 10, b"\xff" * 4])
def test_partition_that_is_none_counts_as_not_given(raw: bytes | None) -> None:
    assert decode_partition(raw) is None


def test_correlation_id_and_key_go_back_byte_for_byte() -> None:
    asked = record(b"{}", ("kafka_correlationId", RAW_UUID), key=b"\x00\xff")
    target = replies().target(asked, "chat-replies")
    sent = replies().publication(target, Reply(topic="chat-replies", event_id="1/reply", data={}))
    assert dict(sent.headers)["kafka_correlationId"] == RAW_UUID
    assert sent.key == b"\x00\xff"


def test_request_without_correlation_id_gets_none() -> None:
    target = read_target(record(b"{}"))
    names = [name for name, _ in target.headers(final=True, error=None, sequence=None)]
    assert names == ["kafka_nest-is-disposed"]


def test_only_the_last_reply_is_disposed() -> None:
    target = read_target(record(b"{}"))

    def headers(final: bool, sequence: int) -> dict[str, bytes | None]:
        return dict(target.headers(final=final, error=None, sequence=sequence))

    assert headers(False, 0) == {"seq": b"0", "final": b"false"}
    assert headers(True, 1) == {"kafka_nest-is-disposed": b"\x00", "seq": b"1", "final": b"true"}


def test_error_is_in_nestjs_header_as_json() -> None:
    target = read_target(record(b"{}"))
    error = error_header("unknown_elder", "没有这位老人")
    raw = dict(target.headers(final=True, error=error, sequence=None))["kafka_nest-err"]
    assert json.loads(raw or b"") == {"code": "unknown_elder", "message": "没有这位老人"}


def test_no_reply_topic_means_ours_and_any_partition() -> None:
    asked = record(b"{}", ("kafka_replyPartition", b"3"))
    target = replies().target(asked, "chat-replies")
    assert (target.topic, target.partition) == ("prod.chat-replies", None)


def test_our_own_reply_topic_needs_no_entry_on_the_list() -> None:
    asked = record(
        b"{}", ("kafka_replyTopic", b"prod.chat-replies"), ("kafka_replyPartition", b"3")
    )
    target = replies().target(asked, "chat-replies")
    assert (target.topic, target.partition) == ("prod.chat-replies", 3)


def test_topic_on_the_list_is_taken() -> None:
    asked = record(b"{}", ("kafka_replyTopic", b"family-replies"))
    assert replies(r"family-.*").target(asked, "chat-replies").topic == "family-replies"


@pytest.mark.parametrize(
    "topic", [b"answers-updated", b"family-replies-evil", b"x\nfamily-replies", b"\xff", b"../x"]
)
def test_topic_off_the_list_is_refused(topic: bytes) -> None:
    headers: tuple[Header, ...] = (("kafka_replyTopic", topic),)
    with pytest.raises(ReplyTopicRefused):
        replies(r"family-replies").target(record(b"{}", *headers), "chat-replies")


@pytest.mark.parametrize("topic", [b"a" * 250 + b"-replies", b"a\0-replies", "答-replies".encode()])
def test_name_no_broker_lets_a_topic_have_is_refused_whatever_the_list_lets(topic: bytes) -> None:
    """The client takes such a name for a broker that is away: the reply would be tried for ever."""
    headers: tuple[Header, ...] = (("kafka_replyTopic", topic),)
    with pytest.raises(ReplyTopicRefused):
        replies(r".*").target(record(b"{}", *headers), "chat-replies")


@pytest.mark.parametrize(
    "topic",
    [
        "__consumer_offsets",
        "_schemas",
        *(f"prod.{t.name}" for t in CATALOGUE if t not in (CHAT_REPLIES, MODEL_REPLIES)),
        *(f"prod.{t.name}-dlt" for t in CATALOGUE if t.direction == "in"),
    ],
)
@pytest.mark.parametrize("pattern", [r".*", r"[_a-z.-]+", r"(prod\.|_).*"])
def test_no_pattern_opens_our_own_topics_or_the_brokers(topic: str, pattern: str) -> None:
    headers: tuple[Header, ...] = (("kafka_replyTopic", topic.encode()),)
    with pytest.raises(ReplyTopicRefused):
        replies(pattern).target(record(b"{}", *headers), "chat-replies")


@pytest.mark.parametrize("topic", ["prod.model-replies", "anything", "prod.model-ready2"])
def test_wide_pattern_opens_all_others(topic: str) -> None:
    headers: tuple[Header, ...] = (("kafka_replyTopic", topic.encode()),)
    assert replies(r".*").target(record(b"{}", *headers), "chat-replies").topic == topic


def test_place_that_the_asker_named_is_counted_with_all_such() -> None:
    """A name of a sender's must not become a time series."""
    outlet, reply = replies("family.*"), Reply(topic="chat-replies", event_id="1/reply", data={})
    for topic, is_elsewhere in ((None, False), (b"prod.chat-replies", False), (b"family.7", True)):
        asked = record(b"{}", *([("kafka_replyTopic", topic)] if topic else []))
        publication = outlet.publication(outlet.target(asked, "chat-replies"), reply)
        assert publication.is_elsewhere == is_elsewhere


def test_reply_is_a_cloudevent_on_the_asked_partition() -> None:
    asked = record(
        b"{}", ("kafka_replyTopic", b"r"), ("kafka_replyPartition", struct.pack(">i", 2))
    )
    outlet = replies("r")
    reply = Reply(topic="model-replies", event_id="9/reply", data={"a": "李"})
    sent = outlet.publication(outlet.target(asked, "model-replies"), reply)
    headers = dict(sent.headers)
    assert (sent.topic, sent.partition) == ("r", 2)
    assert headers["ce_id"] == b"9/reply"
    assert headers["ce_type"] == b"heirloom.model-replies.v1"
    assert json.loads(sent.value or b"") == {"a": "李"}
