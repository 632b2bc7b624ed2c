"""How long the service needs to catch up after MongoDB was down for an hour.

    python -m bench.outage [--minutes 60] [--training-rate 10] [--answers-rate 1] [--json]
    python -m bench.outage --minutes 6

The roles `answers` and `training` run (worker and relay included) when a proxy disconnects them
from MongoDB. The topics then get, all at once, the records of an hour at these rates per second.
When each lane of both roles has failed so often that its backoff is at its maximum (15 s), MongoDB
returns. The time runs from there until every record is done and its offset committed: requests are
in the ledger, data sets are written and published. The target is a tenth of the outage. Measuring
an hour takes some minutes; `--minutes 6` is a tenth of everything.
"""

import argparse
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import structlog
from structlog.typing import EventDict

from bench.backlog import Offsets, elder, every, send_answers, send_training
from bench.servers import PARTITIONS, Servers, add_options, open_servers, settings_for
from bench.table import show
from config.metrics import Metrics
from config.settings import Settings
from consumers.app import App, RoleName
from consumers.kafka.backoff import FIRST_WAIT_S, LONGEST_WAIT_S
from consumers.operations.topics import apply_topics
from pipeline.storage.mongo import JOBS, open_client
from schemas.errors import StoreUnavailable
from schemas.topics import ANSWERS_UPDATED, TRAIN_REQUESTED, Topic
from tests.chaos.proxy import Proxy

ROLES: dict[RoleName, Topic] = {"answers": ANSWERS_UPDATED, "training": TRAIN_REQUESTED}
ELDERS = 50
ANSWERS = 20
POLL_INTERVAL_S = 0.2
LIMIT_S = 3600.0


class Waits:
    """Counts, from the log, how often each lane had to wait for the store.

    The metric counts all lanes of a role together, so one lane could hide another.
    """

    def __init__(self) -> None:
        self.by_lane: Counter[str] = Counter()

    def __call__(self, logger: object, method: str, event: EventDict) -> EventDict:
        """Count a wait; structlog calls this in the lane's own thread."""
        if event["event"] == "record.waits" and event["code"] == StoreUnavailable.code:
            self.by_lane[threading.current_thread().name] += 1
        return event


def catch_up(servers: Servers, folder: Path, requests: int, updates: int) -> dict[str, float]:
    """Return the seconds from MongoDB's return until each role, and both, have caught up."""
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(int(servers.mongodb_uri.rpartition(":")[2])))
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        settings = settings_for(servers, folder, mongodb_uri=uri)
        _insert_answers(servers, settings)
        apply_topics(settings, PARTITIONS)
        metrics, waits = Metrics(), Waits()
        usual = structlog.get_config()["processors"]
        structlog.configure(processors=[waits, *usual])
        stack.callback(structlog.configure, processors=usual)
        _start(App(settings, metrics), stack)
        offsets = {role: Offsets(settings, role, topic.name) for role, topic in ROLES.items()}
        for one in offsets.values():
            stack.callback(one.close)
        proxy.set_mode("gone")
        send_training(settings, requests, ELDERS)
        send_answers(settings, updates, ELDERS)
        _await_longest_backoff(waits)
        proxy.set_mode("pass")
        sent: dict[RoleName, int] = {"training": requests, "answers": updates}
        seconds = _time_until_committed(offsets, sent)
        _verify(servers, settings, metrics, requests, updates)
        return seconds


def _start(app: App, stack: ExitStack) -> None:
    stop = threading.Event()
    running = threading.Thread(target=lambda: app.run(list(ROLES), stop))
    running.start()
    stack.callback(running.join)
    stack.callback(stop.set)
    for _ in every(POLL_INTERVAL_S, LIMIT_S, "the service is ready"):
        assigned = [app.metrics.rebalances.labels(role, "assigned") for role in ROLES]
        if all(one._value.get() for one in assigned):
            return


def _insert_answers(servers: Servers, settings: Settings) -> None:
    client = open_client(settings_for(servers, settings.data_dir).mongodb)
    client[settings.mongodb.database]["answers"].insert_many(
        {"elderId": elder(e, ELDERS), "question": f"第{n}问？", "answer": f"第{n}年在丝厂做工。"}
        for e in range(ELDERS)
        for n in range(ANSWERS)
    )
    client[settings.mongodb.database]["answers"].create_index([("elderId", 1), ("_id", 1)])
    client.close()


def _await_longest_backoff(waits: Waits) -> None:
    """Return when each lane has failed so often that its backoff is at its maximum."""
    tries = 1
    while FIRST_WAIT_S * 2 ** (tries - 1) < LONGEST_WAIT_S:
        tries += 1
    # A lane is a thread, named after its role and a number: "answers-0".
    lanes = {t.name for t in threading.enumerate() if t.name.rpartition("-")[0] in ROLES}
    for _ in every(POLL_INTERVAL_S, LIMIT_S, "the backoff is at its maximum"):
        if all(waits.by_lane[lane] >= tries for lane in lanes):
            return


def _time_until_committed(
    offsets: dict[RoleName, Offsets], sent: dict[RoleName, int]
) -> dict[str, float]:
    begun = time.monotonic()
    seconds: dict[str, float] = {}
    for _ in every(POLL_INTERVAL_S, LIMIT_S, "all records are done"):
        for role, one in offsets.items():
            if role not in seconds and one.committed() == sent[role]:
                seconds[role] = time.monotonic() - begun
        if len(seconds) == len(offsets):
            break
    return seconds | {"both": max(seconds.values())}


def _verify(
    servers: Servers, settings: Settings, metrics: Metrics, requests: int, updates: int
) -> None:
    client = open_client(settings_for(servers, settings.data_dir).mongodb)
    stored = client[settings.mongodb.database][JOBS].count_documents({})
    client.close()
    assert stored == requests, f"{stored} of {requests} are in the ledger"
    done = metrics.consumed.labels(ANSWERS_UPDATED.name, "done")._value.get()
    assert done >= updates, f"{done} of {updates} answers-updated are done"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, repeats=1)
    parser.add_argument("--minutes", type=float, default=60.0, help="of the outage")
    parser.add_argument(
        "--training-rate", type=float, default=10.0, help="train-requested a second"
    )
    parser.add_argument("--answers-rate", type=float, default=1.0, help="answers-updated a second")
    arguments = parser.parse_args()
    outage_s = arguments.minutes * 60
    requests = int(arguments.training_rate * outage_s)
    updates = int(arguments.answers_rate * outage_s)
    rows: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        open_servers(Path(name), arguments.kafka) as servers,
    ):
        for _ in range(arguments.repeats):
            for row, seconds in catch_up(servers, Path(name), requests, updates).items():
                rows.setdefault(row, []).append(seconds)
    what = f"{requests:,} train-requested and {updates:,} answers-updated; {servers.broker}"
    title = f"Seconds until all is dealt with after {arguments.minutes:g} min ({what})"
    show(title, rows, as_json=arguments.json)
    part = {"both": [seconds / outage_s for seconds in rows["both"]]}
    show("As a part of the outage (target 0.1)", part, as_json=arguments.json)


if __name__ == "__main__":
    main()
