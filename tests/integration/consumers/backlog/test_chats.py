"""More chats than can be answered in time: they wait in the topic, and each gets one reply.

`MODELSERVER_BACKLOG_RECORDS=100000 pytest -s tests/integration/consumers/backlog/test_chats.py` is
the long run; docs/reliability.md has its figures.
"""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from config.settings import Settings
from schemas.topics import CHAT_REPLIES, CHAT_REQUESTS
from tests.integration.consumers.backlog.chats import (
    CHATS_LIMIT_S,
    RECORDS,
    Replies,
    await_replies,
    is_stamped_by_the_broker,
    reading,
    send_chats,
)
from tests.integration.consumers.backlog.member import (
    CHAT_DEADLINE_S,
    MEMORY_BYTES,
    START_S,
    member_of,
)
from tests.servers.slow_ollama import SlowOllama

# How long a reply may take from Ollama's answer to the broker, on a busy machine.
MARGIN_S = 2.0


@pytest.mark.timeout(60 + START_S + CHATS_LIMIT_S)
def test_backlog_waits_in_the_topic_and_each_request_is_answered_once_and_in_time(
    settings: Settings, slow_ollama: SlowOllama, tmp_path: Path
) -> None:
    requests, answers = (settings.topic(t.name) for t in (CHAT_REQUESTS, CHAT_REPLIES))
    replies = Replies()
    with member_of("chat", settings, tmp_path) as member, reading(settings, answers) as consumer:
        member.wait_until_ready()
        before = member.rebalances()

        # Send all requests at once, and read replies meanwhile.
        began = time.monotonic()
        sent: dict[int, int] = {}
        sending = threading.Thread(target=lambda: sent.update(send_chats(settings, requests)))
        sending.start()
        memory = await_replies(consumer, replies, member)
        seconds = time.monotonic() - began
        sending.join()

        # A second reply to a request would be on its way by now.
        for message in consumer.consume(500, 1.0):
            replies.take(message)
        after = member.rebalances()
        paused, resumed = member.logged("consumer.paused"), member.logged("consumer.resumed")
        assert member.logged("MAX_POLL") == 0

    # Report what was measured, for docs/reliability.md.
    half = len(memory) // 2
    growth = max(memory[half:]) - max(memory[: half or 1])
    late_ms = max((at - sent[number] for number, at in replies.answered_ms.items()), default=0)
    print(
        f"{RECORDS} requests in {seconds:.1f} s ({RECORDS / seconds:.0f} a second): "
        f"{dict(replies.codes)}, asked of Ollama {slow_ollama.asked}, slowest answer {late_ms} ms, "
        f"memory {min(memory) >> 20} to {max(memory) >> 20} MiB, growth in the second half "
        f"{growth >> 10} KiB, paused {paused} times, {after}"
    )

    assert replies.counts == Counter(range(RECORDS)), "one reply a request"
    assert replies.wrong == []
    assert set(replies.codes) <= {"answered", "deadline_exceeded"}
    assert replies.codes["answered"] > 0
    assert paused > 0 and resumed > 0, "the consumer pauses, and resumes"
    assert after == before, "the member stayed in its group"
    assert growth < MEMORY_BYTES
    if is_stamped_by_the_broker(settings, requests):
        assert replies.codes["deadline_exceeded"] > 0
        assert late_ms < (CHAT_DEADLINE_S + MARGIN_S) * 1000, "no answer comes late"
        # Ollama is asked in vain only for requests that were under way when their time ran out.
        assert slow_ollama.asked <= replies.codes["answered"] * 1.2 + settings.chat.concurrency * 4
