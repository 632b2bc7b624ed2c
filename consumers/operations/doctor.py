"""The doctor: checks everything the service needs and says how to repair what fails."""

import shutil
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec

from config.settings import Settings
from consumers.operations.admin import KafkaAdmin
from consumers.operations.topics import broker_name, narrow_dead_letter_topics
from pipeline.hosting.ollama import OllamaHost
from pipeline.jobs.forms import choose_form, find_quantizer
from pipeline.storage.mongo import open_client, store_errors
from pipeline.weights.merge_plan import plan_merge
from schemas.base import Frozen
from schemas.errors import (
    ConfigurationError,
    FatalError,
    KafkaRefused,
    ModelServerError,
    StoreRefused,
)
from schemas.exit_codes import ExitCode
from schemas.topics import all_topics

_LIMIT_S = 5.0
_UNAVAILABLE = ExitCode.UNAVAILABLE
_CONFIGURATION = ExitCode.CONFIGURATION
_ENOUGH_DISK_BYTES = 2 * 1024**3
_GIB = 1024**3
_LARGE_FORM_GIB = 4
_SHARE = (
    "with many personas serve them by llama-server, which shares the base among their adapters "
    "(MODELSERVER_HOST__KIND=llama-server)"
)


class Finding(Frozen):
    """One check: what was found and what to do about it. Neither text contains a secret."""

    name: str
    ok: bool
    found: str
    repair: str = ""
    exit_code: int = 0


def examine(settings: Settings) -> list[Finding]:
    """Run all checks; a failed one does not stop the others."""
    return [
        _check_training_config(settings),
        _check_base(settings),
        _check_packages(),
        _check_disk(settings),
        _check_kafka(settings),
        _check_topics(settings),
        _check_store(settings),
        _check_host(settings),
        _check_form(settings),
    ]


def _check_training_config(settings: Settings) -> Finding:
    def look() -> str:
        return f"current model {settings.training().current_model}"

    return _look("training_config", look, "correct the value that is named", _CONFIGURATION)


def _check_base(settings: Settings) -> Finding:
    try:
        config = settings.training()
        base = settings.base(config, config.current_model)
    except ModelServerError as error:
        return _failed("base model", error.message, "see training_config", _CONFIGURATION)
    if find_spec("torch") is None:
        return Finding(name="base model", ok=True, found="not needed: this host does not train")
    if base.gguf_path.is_file():
        return Finding(name="base model", ok=True, found=str(base.gguf_path))
    repair = f"put the weights at {base.gguf_path}, or set MODELSERVER_MODEL_DIR"
    return _failed("base model", "no weights", repair, _CONFIGURATION)


def _check_packages() -> Finding:
    missing = [p for p in ("torch", "transformers", "peft", "gguf") if find_spec(p) is None]
    if not missing:
        return Finding(name="training packages", ok=True, found="all there")
    # A chat host needs none of them.
    found = f"missing: {', '.join(missing)}; the training role cannot run here"
    return Finding(name="training packages", ok=True, found=found)


def _check_disk(settings: Settings) -> Finding:
    folder = settings.data_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free for {settings.data_dir}"
    if free >= _ENOUGH_DISK_BYTES:
        return Finding(name="disk", ok=True, found=found)
    return _failed("disk", found, "free space or set MODELSERVER_DATA_DIR", _UNAVAILABLE)


def _check_kafka(settings: Settings) -> Finding:
    def look() -> str:
        return f"{len(KafkaAdmin(settings.kafka).metadata(_LIMIT_S).brokers)} broker(s)"

    return _look("kafka", look, "start Kafka or set KAFKA_BOOTSTRAP_SERVERS", _UNAVAILABLE)


def _check_topics(settings: Settings) -> Finding:
    def look() -> str:
        there = KafkaAdmin(settings.kafka).topics(_LIMIT_S)
        missing = [n for t in all_topics() if (n := broker_name(settings, t)) not in there]
        if missing:
            raise FatalError(f"missing: {', '.join(missing)}")
        partitions = {name: len(found.partitions) for name, found in there.items()}
        narrow = narrow_dead_letter_topics(settings, partitions)
        if narrow:  # Not a fault: dead letters then go to other partitions.
            return f"all there, but {'; '.join(narrow)}: add some for letters to keep theirs"
        return "all there"

    return _look("topics", look, "run `modelserver topics apply`", _UNAVAILABLE)


def _check_store(settings: Settings) -> Finding:
    def look() -> str:
        client = open_client(settings.mongodb)
        try:
            with store_errors():
                version: str = client.server_info()["version"]
                # A user without rights gets this far, so read what the service needs: the answers.
                database = client[settings.mongodb.database]
                database[settings.mongodb.answers_collection].find_one({}, {"_id": 1})
        finally:
            client.close()
        return f"version {version}, database {settings.mongodb.database}"

    return _look("mongodb", look, "start MongoDB or set MONGODB_URI", _UNAVAILABLE)


def _check_host(settings: Settings) -> Finding:
    def look() -> str:
        with closing(OllamaHost(settings.model_host())) as host:
            description = host.describe()
            if description.kind != settings.host.kind:
                raise ConfigurationError(
                    f"MODELSERVER_HOST__KIND: found {settings.host.kind!r}, but a "
                    f"{description.kind} answers there"
                )
            form = choose_form(host, settings.host, description)
            count = len(host.tags())
        return f"{description.kind} {description.version}, {count} model(s), form {form}"

    repair = "start Ollama or set OLLAMA_HOST"
    if settings.host.kind == "llama-server":
        repair = "start `modelserver run host` or set MODELSERVER_HOST__URL"
    return _look("model host", look, repair, _UNAVAILABLE)


def _check_form(settings: Settings) -> Finding:
    """Say what a persona costs in this form, and whether the tool that makes it is there."""

    def look() -> str:
        config = settings.training()
        with closing(OllamaHost(settings.model_host())) as host:
            form = choose_form(host, settings.host, host.describe())
        if form != "merged":
            return f"{form}: as large as an adapter"
        if config.quantization == "q4_k_m":
            find_quantizer(settings.host)
        gguf = settings.base(config, config.current_model).gguf_path
        if not gguf.is_file():
            return f"merged, {config.quantization}: about the base's own size for each persona"
        plan = plan_merge(gguf, config.quantization)
        size = plan.size_bytes / _GIB
        told = (
            f"merged, {config.quantization}: {size:.1f} GiB for each persona; a merge takes about "
            f"{plan.seconds / 60:.0f} min, {plan.peak_memory_bytes / _GIB:.1f} GiB of memory and "
            f"{(plan.disk_bytes + plan.size_bytes) / _GIB:.1f} GiB of disk"
        )
        return told if size < _LARGE_FORM_GIB else f"{told}; {_SHARE}"

    return _look("form", look, "see docs/hosts.md", _UNAVAILABLE)


def _look(name: str, look: Callable[[], str], repair: str, exit_code: int) -> Finding:
    try:
        return Finding(name=name, ok=True, found=look())
    except ConfigurationError as error:
        return _failed(name, error.message, "correct the setting", _CONFIGURATION)
    except (KafkaRefused, StoreRefused) as error:
        return _failed(name, error.message, "see docs/security.md", _UNAVAILABLE)
    except ModelServerError as error:
        return _failed(name, error.message, repair, exit_code)


def _failed(name: str, found: str, repair: str, exit_code: int) -> Finding:
    return Finding(name=name, ok=False, found=found, repair=repair, exit_code=exit_code)
