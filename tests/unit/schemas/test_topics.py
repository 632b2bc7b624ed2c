"""The topic catalogue."""

from schemas.topics import CATALOGUE, DAY_MS, all_topics, dead_letter_topic

BY_NAME = {topic.name: topic for topic in CATALOGUE}


def test_catalogue_has_the_topics_of_the_design() -> None:
    assert {name for name, t in BY_NAME.items() if t.direction == "in"} == {
        "answers-updated",
        "train-requested",
        "chat-requests",
        "model-commands",
    }
    assert {name for name, t in BY_NAME.items() if t.direction == "out"} == {
        "dataset-ready",
        "train-progress",
        "model-ready",
        "chat-replies",
        "model-replies",
    }


def test_every_inbound_topic_has_a_dead_letter_topic_and_no_other() -> None:
    dead_letters = {t.name for t in all_topics()} - set(BY_NAME)
    assert dead_letters == {f"{name}-dlt" for name, t in BY_NAME.items() if t.direction == "in"}


def test_dead_letter_keeps_its_partition_and_has_space_for_its_reason() -> None:
    for topic in (t for t in CATALOGUE if t.direction == "in"):
        dead_letters = dead_letter_topic(topic)
        assert dead_letters.partitions == topic.partitions
        assert dead_letters.max_message_bytes > topic.max_message_bytes
        assert dead_letters.retention_ms >= 30 * DAY_MS


def test_what_stands_for_a_state_is_compacted_and_kept() -> None:
    for name in ("dataset-ready", "model-ready"):
        config = BY_NAME[name].config()
        assert (config["cleanup.policy"], config["retention.ms"]) == ("compact", "-1")


def test_what_is_said_in_chats_is_kept_for_a_day() -> None:
    for name in ("chat-requests", "chat-replies"):
        config = BY_NAME[name].config()
        assert (config["cleanup.policy"], config["retention.ms"]) == ("delete", str(DAY_MS))


def test_deadlines_depend_on_the_brokers_clock() -> None:
    assert BY_NAME["chat-requests"].config()["message.timestamp.type"] == "LogAppendTime"


def test_every_topic_takes_a_message_of_one_mebibyte() -> None:
    assert all(int(t.config()["max.message.bytes"]) > 1024 * 1024 for t in all_topics())
