"""From a few answers to a reply, with a plain Kafka client and a plain MongoDB client.

    modelserver stack > stack.env                        # one terminal
    set -a; . ./stack.env; set +a; modelserver run       # a second one
    set -a; . ./stack.env; set +a; python examples/first_model.py

Exit code 0 with the reply on standard output; 1 with a reason on standard error.
"""

import json
import os
import sys
import time
import uuid
from datetime import UTC, datetime

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from pymongo import MongoClient
from pymongo.errors import PyMongoError

ELDER_ID = "MRH19470405F"
ELDER_NAME = "Margaret Hale"
ANSWERS = {
    "Where were you born?": "In Whitby, over my uncle's net loft, on a herring night.",
    "What did your father do?": "He mended clocks, and he wound the church clock every Saturday.",
    "What was your first job?": "I sold buns at Dawson's bakery for two shillings a morning.",
    "How did you meet your husband?": "Frank trod on my foot at the harbour hall dance.",
    "What did you love to cook?": "Parkin, with black treacle, left to stand a week.",
    "What do you tell the young ones?": "Mend it while the hole is small.",
}
QUESTION = "What did your father do?"
TIME_LIMIT_S = float(os.environ.get("TIME_LIMIT_S", "1200"))
NEEDED = ("KAFKA_BOOTSTRAP_SERVERS", "MONGODB_URI", "MONGODB_DATABASE")


def main() -> None:
    """Store the answers, ask for a training, wait for the model, ask it a question."""
    if missing := [name for name in NEEDED if not os.environ.get(name)]:
        sys.exit(f"{missing[0]} is not set; run `set -a; . ./stack.env; set +a` first")
    servers = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    try:
        store_answers()
    except PyMongoError as error:
        sys.exit(f"the answers could not be stored ({type(error).__name__}); is MongoDB up?")
    end = time.monotonic() + TIME_LIMIT_S
    # Listen first, so that nothing is missed; from the topics' ends, without a group.
    consumer = listen(servers, ["train-progress", "model-ready", "chat-replies"])
    # With this partitioner a key goes where a Java client sends it.
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})

    job_id = f"{ELDER_ID}_{int(time.time())}"
    request = {
        "elder_id": ELDER_ID,
        "elder_name": ELDER_NAME,
        "job_id": job_id,
        # Six answers are few: they need more passes than a whole interview does.
        "overrides": {"epochs": 30},
    }
    send(producer, "train-requested", request)
    print(f"asked for {job_id}", file=sys.stderr)
    model = wait_for_model(consumer, job_id, end)
    print(f"{model['tag']} answers (reused: {model['reused']})", file=sys.stderr)

    correlation = uuid.uuid4().bytes
    question = {"elder_id": ELDER_ID, "message": QUESTION}
    send(producer, "chat-requests", question, [("kafka_correlationId", correlation)])
    reply = wait_for_reply(consumer, correlation, end)
    if reply["error"]:
        sys.exit(f"no reply: {reply['error']['code']}: {reply['error']['message']}")
    print(reply["reply"])
    consumer.close()


def store_answers() -> None:
    """Put the answers where the upstream app keeps them; a second run changes nothing."""
    with MongoClient(os.environ["MONGODB_URI"], serverSelectionTimeoutMS=10_000) as client:
        answers = client[os.environ["MONGODB_DATABASE"]]["answers"]
        for number, (question, answer) in enumerate(ANSWERS.items()):
            key = {"_id": f"{ELDER_ID}-{number}"}
            fields = {"elderId": ELDER_ID, "question": question, "answer": answer}
            answers.replace_one(key, key | fields | {"createdAt": datetime.now(UTC)}, upsert=True)


def listen(servers: str, topics: list[str]) -> Consumer:
    """Read topics from their present end on."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "first-model", "enable.auto.commit": False}
    )
    try:
        known = consumer.list_topics(timeout=10).topics
    except KafkaException:
        sys.exit(f"Kafka at {servers} does not answer; is `modelserver stack` up?")
    if missing := [name for name in topics if name not in known]:
        sys.exit(f"no topic {missing[0]}: start `modelserver run`, it creates the topics")
    ends = []
    for name in topics:
        for partition in known[name].partitions:
            _, end = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10)
            ends.append(TopicPartition(name, partition, end))
    consumer.assign(ends)
    return consumer


def send(producer: Producer, topic: str, data: dict, headers: list | None = None) -> None:
    """Send bare JSON under the elder's id, and wait until the broker has it."""
    producer.produce(topic, json.dumps(data).encode(), ELDER_ID.encode(), headers=headers or [])
    if producer.flush(30):
        sys.exit(f"Kafka did not take the record for {topic} within 30 seconds")


def wait_for_model(consumer: Consumer, job_id: str, end: float) -> dict:
    """Follow the job to its `model-ready`."""
    while True:
        topic, _, data = next_event(consumer, end, f"model-ready of {job_id}")
        if data.get("job_id") != job_id:
            continue
        if topic == "model-ready":
            return data
        print(f"  {data['status']} {data['stage'] or ''} {data['progress']} %", file=sys.stderr)
        if data["status"] in ("failed", "cancelled"):
            sys.exit(f"the job ended: {data['error']['code']}: {data['error']['message']}")


def wait_for_reply(consumer: Consumer, correlation: bytes, end: float) -> dict:
    """Wait for the reply that carries our correlation id."""
    while True:
        topic, headers, data = next_event(consumer, end, "the reply")
        if topic == "chat-replies" and headers.get("kafka_correlationId") == correlation:
            return data


def next_event(consumer: Consumer, end: float, awaited: str) -> tuple[str, dict, dict]:
    """Return the next event as topic, headers and data; end the program at the time limit."""
    while time.monotonic() < end:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            headers = dict(message.headers() or [])
            return message.topic(), headers, json.loads(message.value())
    sys.exit(f"{awaited} did not come within {TIME_LIMIT_S:.0f} seconds; is `modelserver run` up?")


if __name__ == "__main__":
    main()
