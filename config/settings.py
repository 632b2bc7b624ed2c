"""Settings: the environment over an optional YAML file, read once, refused before a start.

Names are `MODELSERVER_<SECTION>__<NAME>`. Four names are those that everybody uses already:
KAFKA_BOOTSTRAP_SERVERS, MONGODB_URI, MONGODB_DATABASE and OLLAMA_HOST.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from config.faults import describe_fault, secret_paths
from config.kafka import KafkaSettings
from config.training import Language, TrainingConfig, load_training_config
from schemas.errors import ConfigurationError
from schemas.hosting import HostKind
from schemas.training import BaseModelSpec

ENV_PREFIX = "MODELSERVER_"
CONFIG_FILE_VARIABLE = "MODELSERVER_CONFIG_FILE"
COMMON_NAMES = {
    "KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "MONGODB_URI": ("mongodb", "uri"),
    "MONGODB_DATABASE": ("mongodb", "database"),
    "OLLAMA_HOST": ("ollama", "host"),
}
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """One group of settings; an unknown name is a typing mistake and is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class AnswerFields(Section):
    """Where upstream keeps what; of several names the first present wins."""

    elder_id: tuple[str, ...] = ("elderId",)
    elder_name: tuple[str, ...] = ("elderName",)
    question: tuple[str, ...] = ("question",)
    answer: tuple[str, ...] = ("answer",)
    created_at: tuple[str, ...] = ("createdAt",)
    updated_at: tuple[str, ...] = ("updatedAt",)

    @field_validator("*", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("*")
    @classmethod
    def _plain_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or any(not n or n.startswith("$") or "\x00" in n for n in names):
            raise ValueError("one or more field names, none beginning with $")
        return names


class MongoSettings(Section):
    """MongoDB: Atlas, a replica set or the embedded store."""

    uri: SecretStr = SecretStr("mongodb://127.0.0.1:27017")
    database: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")] = "heirloom"
    answers_collection: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,120}$")] = "answers"
    fields: AnswerFields = AnswerFields()
    page_size: Annotated[int, Field(ge=1, le=10_000)] = 500
    timeout_s: Seconds = 5.0

    @field_validator("uri")
    @classmethod
    def _address(cls, uri: SecretStr) -> SecretStr:
        if not uri.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("mongodb:// or mongodb+srv://")
        return uri


class OllamaSettings(Section):
    """Ollama; `timeout_s` bounds one call, a cold load included."""

    # No user and password: the client would drop them, and an address is no secret in `repr`.
    host: Annotated[str, Field(pattern=r"^[^\s@]+$")] = "http://127.0.0.1:11434"
    timeout_s: Seconds = 300.0
    keep_alive: str = "30m"


class HostSettings(Section):
    """What serves the personas: Ollama at OLLAMA_HOST, or our own host role over `llama-server`.

    `form` overrides the form that the host's version suggests. Everything below `url` is for the
    host role alone: `modelserver run host` listens on `bind` and `port` and starts `command`.

    It loads at most `max_bases` bases, each with up to `max_adapters` adapters; what was asked for
    longest ago leaves. A request has at most `num_ctx` tokens, and `slots` of them are worked on
    at once. `start_s` bounds one start; one that was replaced has `drain_s` to finish.
    """

    kind: HostKind = "ollama"
    form: Literal["auto", "adapter", "merged", "shared"] = "auto"
    quantizer: str = "llama-quantize"
    url: Annotated[str, Field(pattern=r"^[^\s@]+$")] = "http://127.0.0.1:11435"
    bind: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 11435
    command: str = "llama-server"
    max_adapters: Annotated[int, Field(ge=1, le=1000)] = 32
    max_bases: Annotated[int, Field(ge=1, le=100)] = 2
    num_ctx: Annotated[int, Field(ge=256, le=131072)] = 4096
    slots: Annotated[int, Field(ge=1, le=256)] = 4
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    start_s: Seconds = 300.0
    drain_s: Seconds = 120.0


class WorkerSettings(Section):
    """The training worker. A lease not renewed is taken over by another worker.

    An elder who was served within `fair_s` waits behind those who were not. A training process
    that says nothing for `silence_s` is taken to hang.

    `max_attempts` bounds what workers report as failed. One that is killed, or whose training
    process is, reports nothing: `max_lost_leases` only keeps an input that kills every process
    from doing so for ever.
    """

    lease_s: Seconds = 30.0
    heartbeat_s: Seconds = 5.0
    poll_s: Seconds = 1.0
    max_attempts: Count = 5
    max_lost_leases: Count = 100
    retry_base_s: Seconds = 5.0
    progress_interval_s: Seconds = 1.0
    fair_s: Seconds = 3600.0
    silence_s: Seconds = 3600.0

    @field_validator("heartbeat_s")
    @classmethod
    def _several_beats_a_lease(cls, beat: float, info: Any) -> float:
        lease = info.data.get("lease_s", 30.0)
        if beat * 2 > lease:
            raise ValueError(f"at most half of lease_s ({lease})")
        return beat


class RetentionSettings(Section):
    """What is kept of an elder's earlier work; pipeline/versions/retention.py has the rule.

    `versions` counts the newest released ones, and again those before the one that answers.
    `grace_h` hours long nobody touches what no finished job or registered version accounts for.
    """

    after_each_job: bool = True
    versions: Count = 10
    grace_h: Annotated[float, Field(ge=1, le=24 * 366)] = 24.0


class EvaluationSettings(Section):
    """What a version must know before it may answer, and when it is asked.

    It may take another persona's place in the host's memory: so it waits until nobody was asked
    for `quiet_s`, at most `quiet_wait_s`.
    """

    questions: Annotated[int, Field(ge=0, le=1000)] = 8
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    quiet_s: Annotated[float, Field(ge=0)] = 10.0
    quiet_wait_s: Annotated[float, Field(ge=0)] = 120.0


class ChatSettings(Section):
    """The chat consumer. `deadline_s` holds where a request names none."""

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8
    deadline_s: Seconds = 60.0
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    num_ctx: Annotated[int, Field(ge=256, le=131072)] = 2048
    stream_interval_s: Seconds = 0.15
    reply_topics: tuple[str, ...] = (
        r"chat-replies",
        r"model-replies",
        r"[A-Za-z0-9._-]+[.-]repl(y|ies)",
    )
    dedup_hours: Count = 24

    @field_validator("reply_topics")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"regular expressions; {pattern!r}: {error}") from error
        return patterns


class OpsSettings(Section):
    """Where /metrics, /livez and /readyz answer; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9108
    stale_after_s: Seconds = 30.0


class LogSettings(Section):
    """Logs: `console` for people, `json` for machines; a daily file where a folder is set."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "json"
    file: bool = True


class Settings(BaseSettings):
    """All settings of the program."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        # A traceback of pydantic's own would otherwise quote what was set.
        hide_input_in_errors=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    mongodb: MongoSettings = MongoSettings()
    ollama: OllamaSettings = OllamaSettings()
    host: HostSettings = HostSettings()
    worker: WorkerSettings = WorkerSettings()
    retention: RetentionSettings = RetentionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    chat: ChatSettings = ChatSettings()
    ops: OpsSettings = OpsSettings()
    log: LogSettings = LogSettings()
    topics: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]] = {}
    data_dir: Path = Path("data-folder")
    model_dir: Path | None = None
    training_config: Path | None = None
    current_model: str | None = None
    language: Language = "zh"
    max_message_bytes: Count = 1024 * 1024
    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = "modelserver"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the YAML file; nothing else is read."""
        return (init_settings, _CommonNames(settings_cls), env_settings, _YamlFile(settings_cls))

    def topic(self, name: str) -> str:
        """The broker's name of a topic of the catalogue."""
        return self.topics.get(name, name)

    def training(self) -> TrainingConfig:
        """Read the training configuration, with the current model as set here."""
        config = load_training_config(self.training_config)
        if self.current_model is None:
            return config
        if self.current_model not in config.base_models:
            known = ", ".join(config.base_models)
            raise ConfigurationError(
                f"MODELSERVER_CURRENT_MODEL: found {self.current_model!r}, expected one of: {known}"
            )
        return config.model_copy(update={"current_model": self.current_model})

    def model_host(self) -> OllamaSettings:
        """Where the models are served: Ollama, or our own host role, which speaks its API."""
        if self.host.kind == "ollama":
            return self.ollama
        return self.ollama.model_copy(update={"host": self.host.url})

    def base(self, config: TrainingConfig, key: str) -> BaseModelSpec:
        """Resolve a base model in this installation's model folder."""
        return config.base(key, self.model_dir or self.data_dir / config.paths.base)


class _CommonNames(PydanticBaseSettingsSource):
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for variable, (section, name) in COMMON_NAMES.items():
            if text := os.environ.get(variable):
                values.setdefault(section, {})[name] = text
        return values


class _YamlFile(YamlConfigSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, yaml_file=os.environ.get(CONFIG_FILE_VARIABLE))


def load_settings(over: Mapping[str, Any] | None = None) -> Settings:
    """Read all settings; raises ConfigurationError naming value and expectation of each fault.

    `over` goes before everything, for commands that set what a user would.
    """
    path = os.environ.get(CONFIG_FILE_VARIABLE)
    if path and not Path(path).is_file():
        raise ConfigurationError(f"{CONFIG_FILE_VARIABLE}: found {path!r}, expected a file")
    _refuse_unknown_names()
    try:
        return Settings(**(over or {}))
    except ValidationError as error:
        raise ConfigurationError(_describe(error)) from error
    except SettingsError as error:  # A group of values, given in the environment as no JSON.
        raise ConfigurationError(f"{ENV_PREFIX}…: {error}; expected: JSON") from error
    except yaml.YAMLError as error:
        # The parser's own text may quote the file, and so a secret.
        raise ConfigurationError(f"{path}: not YAML{_place(error)}") from None
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{path}: expected: names with values, as YAML") from error


def _describe(error: ValidationError) -> str:
    common: dict[tuple[str, ...], str] = {path: name for name, path in COMMON_NAMES.items()}
    secrets = secret_paths(Settings)
    return "; ".join(describe_fault(e, ENV_PREFIX, common, secrets) for e in error.errors())


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _refuse_unknown_names() -> None:
    """A misspelled section would otherwise be ignored without a word."""
    known = {name.upper() for name in Settings.model_fields} | {"CONFIG_FILE"}
    for variable in os.environ:
        if variable.startswith(ENV_PREFIX):
            section = variable.removeprefix(ENV_PREFIX).split("__")[0]
            if section not in known:
                names = ", ".join(sorted(ENV_PREFIX + name for name in known))
                raise ConfigurationError(f"{variable}: no such setting; expected one of: {names}")
