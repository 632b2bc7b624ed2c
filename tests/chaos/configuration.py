"""How the members of a session are configured, and how the driver and the checker reach them."""

import json
import os

from config.kafka import KafkaSettings
from config.settings import MongoSettings, Settings
from schemas.topics import CATALOGUE
from tests.chaos.points import VARIABLE
from tests.chaos.world import World

LEASE_S = 2.0
SESSION_TIMEOUT_S = 6.0
OLLAMA_TIMEOUT_S = 4.0


class Configuration:
    """The names, addresses and limits of one session.

    The members reach MongoDB and Ollama through the session's proxies; the driver and the checker
    reach them directly.
    """

    def __init__(
        self, world: World, name: str, group_protocol: str, *, mongodb_port: int, ollama_port: int
    ) -> None:
        """`mongodb_port` and `ollama_port` are those of the proxies."""
        self._world = world
        self._name = name
        self._protocol = group_protocol
        self._mongodb_port = mongodb_port
        self._ollama_port = ollama_port
        self.folder = world.folder / name
        self.plan = self.folder / "plan.json"

    def settings(self) -> Settings:
        """Return the settings by which the driver and the checker look at the session."""
        return Settings(
            kafka=KafkaSettings(
                bootstrap_servers=self._world.servers.kafka_bootstrap_servers,
                group_prefix=self._name,
            ),
            mongodb=MongoSettings(uri=self._world.servers.mongodb_uri, database=self._name),
            topics=self._topics(),
            data_dir=self.folder / "data",
        )

    def environment(self) -> dict[str, str]:
        """Return the environment of a member: short limits, so that a fault costs seconds."""
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": self._world.servers.kafka_bootstrap_servers,
            "MONGODB_URI": f"mongodb://127.0.0.1:{self._mongodb_port}/?directConnection=true",
            "MONGODB_DATABASE": self._name,
            "OLLAMA_HOST": f"http://127.0.0.1:{self._ollama_port}",
            "MODELSERVER_TOPICS": json.dumps(self._topics()),
            "MODELSERVER_KAFKA__GROUP_PREFIX": self._name,
            "MODELSERVER_KAFKA__GROUP_PROTOCOL": self._protocol,
            "MODELSERVER_KAFKA__SESSION_TIMEOUT_MS": str(round(SESSION_TIMEOUT_S * 1000)),
            "MODELSERVER_KAFKA__DELIVERY_TIMEOUT_MS": "30000",
            "MODELSERVER_MONGODB__TIMEOUT_S": "1",
            "MODELSERVER_OLLAMA__TIMEOUT_S": str(OLLAMA_TIMEOUT_S),
            "MODELSERVER_WORKER__LEASE_S": str(LEASE_S),
            "MODELSERVER_WORKER__HEARTBEAT_S": "0.3",
            "MODELSERVER_WORKER__POLL_S": "0.2",
            "MODELSERVER_WORKER__RETRY_BASE_S": "0.2",
            "MODELSERVER_WORKER__PROGRESS_INTERVAL_S": "0.1",
            "MODELSERVER_EVALUATION__QUESTIONS": "1",
            "MODELSERVER_EVALUATION__THRESHOLD": "0",
            # Chats of the other session go on as long as its fault, so no moment is quiet for long.
            "MODELSERVER_EVALUATION__QUIET_S": "0.2",
            "MODELSERVER_EVALUATION__QUIET_WAIT_S": "1",
            "MODELSERVER_CHAT__MAX_TOKENS": "4",
            "MODELSERVER_DATA_DIR": str(self.folder / "data"),
            "MODELSERVER_MODEL_DIR": str(self._world.folder / "models"),
            "MODELSERVER_TRAINING_CONFIG": str(self._world.training_config),
            "MODELSERVER_OPS__PORT": "0",
            "MODELSERVER_LOG__FILE": "false",
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",  # As in the image.
            VARIABLE: str(self.plan),
        }
        return {**os.environ, **settings}

    def _topics(self) -> dict[str, str]:
        return {topic.name: f"{self._name}.{topic.name}" for topic in CATALOGUE}
