"""How soon a job resumes after `kill -9` of its worker.

    python -m bench.recovery [--repeats 5] [--lease 5] [--kafka embedded] [--json]

Two processes of `modelserver run training` share a tiny base model (tests/chaos). One trains and is
killed at a random moment; the other is idle. The time runs from the kill until the ledger shows
that the job was claimed again (its fence grew). `poll_s`, the interval at which an idle worker
looks for work, is the default (1 s). A repeat takes half a minute, or two minutes where a worker is
slow to start.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.backlog import every
from bench.servers import PARTITIONS, Servers, add_options, open_servers
from bench.table import show
from config.kafka import KafkaSettings
from config.settings import MongoSettings, Settings
from consumers.app import utc_now
from consumers.operations.topics import apply_topics
from embedded.kafka import SESSION_TIMEOUT_MS
from embedded.process import dying_with_parent
from embedded.stack import OllamaServer
from pipeline.ledger.events import Announcer
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.new_job import NewJob
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Store, open_client
from schemas.documents import Job
from schemas.events import TERMINAL_STATUSES
from tests.chaos.tiny_base import make_tiny_base

NAME = "recovery"
HEARTBEATS = 6
ANSWERS = 40
POLL_INTERVAL_S = 0.01
LIMIT_S = 180.0


class Worker:
    """A `modelserver run training` in a process of its own."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                dying_with_parent((sys.executable, "-m", "cli.main", "run", "training")),
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which is also part of the lease's owner."""
        return self._process.pid

    def wait_until_started(self) -> None:
        """Return when its roles are running."""
        for _ in every(0.05, LIMIT_S, f"the worker has started; see {self._log}"):
            if "app.started" in self._log.read_text(encoding="utf-8", errors="replace"):
                return

    def kill(self) -> float:
        """Kill it, and return the monotonic time of the kill."""
        killed_at = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        return killed_at

    def clear_away(self) -> None:
        """Kill whatever is left of it, including its training child."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Pair:
    """Two workers over one ledger while the context is open."""

    def __init__(self, servers: Servers, folder: Path, lease_s: float) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._workers: dict[int, Worker] = {}
        self._started = 0
        self._mongodb = MongoSettings(uri=servers.mongodb_uri, database=NAME)
        self._servers = servers
        self._lease_s = lease_s

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        ollama = OllamaServer(self._folder)
        self._stack.enter_context(ollama.process)
        self._environment = self._settings(ollama.host, make_tiny_base(self._folder / "models"))
        client = open_client(self._mongodb)
        self._stack.callback(client.close)
        self.store: Store = client[NAME]
        ensure_indexes(self.store, 1)
        kafka = KafkaSettings(bootstrap_servers=self._servers.bootstrap_servers)
        settings = Settings(kafka=kafka)
        apply_topics(settings, PARTITIONS)
        self.ledger = Ledger(
            self.store,
            Announcer(utc_now, "en"),
            lease_s=self._lease_s,
            fair_s=settings.worker.fair_s,
        )
        self._stack.callback(self._clear_away)
        self.fill_up()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def fill_up(self) -> None:
        """Start workers until two are running."""
        while len(self._workers) < 2:
            self._started += 1
            worker = Worker(self._environment, self._folder / f"worker-{self._started}.log")
            self._workers[worker.pid] = worker
        for worker in self._workers.values():
            worker.wait_until_started()

    def kill_holder(self, job: Job) -> float:
        """Kill the worker that has a job, and return the monotonic time of the kill."""
        assert job.owner is not None, f"nobody has {job.id}"
        pid = int(job.owner.split("-")[-2])
        worker = self._workers.pop(pid)
        self._stack.callback(worker.clear_away)
        return worker.kill()

    def _clear_away(self) -> None:
        for worker in self._workers.values():
            worker.clear_away()

    def _settings(self, ollama_host: str, training_config: Path) -> dict[str, str]:
        return os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": self._servers.bootstrap_servers,
            "MONGODB_URI": self._servers.mongodb_uri,
            "MONGODB_DATABASE": NAME,
            "OLLAMA_HOST": ollama_host,
            "MODELSERVER_KAFKA__SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS),
            "MODELSERVER_WORKER__LEASE_S": str(self._lease_s),
            "MODELSERVER_WORKER__HEARTBEAT_S": str(self._lease_s / HEARTBEATS),
            "MODELSERVER_DATA_DIR": str(self._folder / "data"),
            "MODELSERVER_MODEL_DIR": str(self._folder / "models"),
            "MODELSERVER_TRAINING_CONFIG": str(training_config),
            "MODELSERVER_OPS__PORT": "0",
            "MODELSERVER_LOG__FILE": "false",
            "OMP_NUM_THREADS": "1",
        }


def long_job(store: Store, number: int) -> NewJob:
    """Return a job that would train for longer than the benchmark lets it."""
    elder = f"R{number}"
    store["answers"].insert_many(
        {"elderId": elder, "question": f"What did you do in year {n}?", "answer": f"I built {n}."}
        for n in range(ANSWERS)
    )
    return NewJob(
        request_source="bench",
        request_id=elder,
        requested_at=utc_now(),
        elder_id=elder,
        elder_name="Elder",
        force_retrain=False,
        job_id=elder,
        base_model=None,
        overrides={"epochs": 100, "batch_size": 1},
        traceparent=None,
        queue_order=number,
    )


def recover(pair: Pair, number: int, chance: random.Random) -> float:
    """Return the seconds from the kill to the next claim."""
    job = long_job(pair.store, number)
    pair.ledger.accept([job])
    for _ in every(POLL_INTERVAL_S, LIMIT_S, "the job trains"):
        if pair.ledger.get(job.elder_id).stage == "training":
            break
    time.sleep(chance.uniform(0, 2 * pair._lease_s / HEARTBEATS))
    # Read only now: if the lease was lost during the pause, the fence has grown already.
    claimed = pair.ledger.get(job.elder_id)
    killed_at = pair.kill_holder(claimed)
    for _ in every(POLL_INTERVAL_S, LIMIT_S, "the job is claimed again"):
        if pair.ledger.get(job.elder_id).fence > claimed.fence:
            break
    seconds = time.monotonic() - killed_at
    pair.ledger.cancel(job.elder_id)
    pair.fill_up()
    for _ in every(0.1, LIMIT_S, "the job is over"):
        if pair.ledger.get(job.elder_id).status in TERMINAL_STATUSES:
            break
    return seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, repeats=5)
    parser.add_argument("--lease", type=float, default=5.0, help="seconds; a sixth is a heartbeat")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    # Child processes die with this one. An orderly exit also removes their folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with (
        tempfile.TemporaryDirectory() as name,
        open_servers(Path(name), arguments.kafka) as servers,
        Pair(servers, Path(name), arguments.lease) as pair,
    ):
        seconds: list[float] = []
        for number in range(arguments.repeats):
            seconds.append(recover(pair, number, chance))
            print(f"claimed again after {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
        rows = {
            "from the kill to the next claim": seconds,
            "that less the lease (target 2)": [s - arguments.lease for s in seconds],
        }
        show(f"Seconds; lease {arguments.lease:g} s", rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
