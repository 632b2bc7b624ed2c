"""What is wrong with a dependency: Kafka, MongoDB, Ollama or the disk. The work waits."""

from schemas.errors.reactions import RetryError


class KafkaUnavailable(RetryError):
    """Kafka did not confirm in time; check KAFKA_BOOTSTRAP_SERVERS and the brokers."""

    code = "kafka_unavailable"


class NoSuchTopic(KafkaUnavailable):
    """The topic or partition does not exist; run `modelserver topics apply`."""

    code = "no_such_topic"


class TopicRefused(NoSuchTopic):
    """The topic takes no event of ours; check its settings, and our rights in docs/security.md.

    To a user without rights Kafka does not tell a topic that is not there from one that is.
    """

    code = "topic_refused"


class KafkaRefused(KafkaUnavailable):
    """Kafka refuses this user; check MODELSERVER_KAFKA__SECURITY and the user's rights."""

    code = "kafka_refused"


class StoreUnavailable(RetryError):
    """MongoDB cannot be reached; check MONGODB_URI and the server."""

    code = "store_unavailable"


class StoreRefused(StoreUnavailable):
    """MongoDB refuses this user; check user and password in MONGODB_URI, and the user's roles."""

    code = "store_refused"


class OllamaUnavailable(RetryError):
    """Ollama cannot be reached or answered with a server error; check OLLAMA_HOST."""

    code = "ollama_unavailable"


class OllamaFailed(OllamaUnavailable):
    """Ollama answered with a server error; its own sentence and its log say why."""

    code = "ollama_failed"


class DiskUnavailable(RetryError):
    """The disk cannot be used; check it and its mount, and the work goes on by itself."""

    code = "disk_unavailable"


class DiskFull(DiskUnavailable):
    """The data folder has no room; free space and the work goes on by itself."""

    code = "disk_full"
