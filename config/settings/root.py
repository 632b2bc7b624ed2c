"""All settings of the program, and where their values come from."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from config.kafka import KafkaSettings
from config.section import Count
from config.settings.chat import ChatSettings
from config.settings.hosting import HostSettings, OllamaSettings
from config.settings.mongodb import MongoSettings
from config.settings.operations import LogSettings, OpsSettings
from config.settings.training import EvaluationSettings, RetentionSettings, WorkerSettings
from config.training import Language, TrainingConfig, load_training_config
from schemas.errors import ConfigurationError
from schemas.training import BaseModelSpec

ENV_PREFIX = "MODELSERVER_"
CONFIG_FILE_VARIABLE = "MODELSERVER_CONFIG_FILE"
# Settings without the prefix, whose names other programs use as well.
COMMON_NAMES = {
    "KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "MONGODB_URI": ("mongodb", "uri"),
    "MONGODB_DATABASE": ("mongodb", "database"),
    "OLLAMA_HOST": ("ollama", "host"),
}


class Settings(BaseSettings):
    """All settings of the program."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        # Otherwise a traceback of pydantic would quote the values, secrets among them.
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
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
    """Other names for topics, as JSON: `{"chat-requests": "family.chat"}`."""
    data_dir: Path = Path("data-folder")
    """The folder of data sets, adapters, base models and logs (`/app` in the image)."""
    model_dir: Path | None = None
    """The folder of the base models; none: the training config's, `models/base` below
    `data_dir`."""
    training_config: Path | None = None
    """Another `training_config.yaml`; none: the bundled one."""
    current_model: str | None = None
    """The base model to train on; none: the training config's `current_model`."""
    language: Language = "zh"
    """The language of `eta` in `train-progress`."""
    max_message_bytes: Count = 1024 * 1024
    """The largest record that is read; a larger one becomes a dead letter."""
    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = "modelserver"
    """Without effect; accepted for configurations that set it."""

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
        """Return the broker's name of a topic of the catalogue."""
        return self.topics.get(name, name)

    def training(self) -> TrainingConfig:
        """Read the training configuration, with the current model as set here.

        Raises ConfigurationError for a wrong value or an unknown current model.
        """
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
        """Where the models are served: Ollama, or the role `host`, which speaks Ollama's API."""
        if self.host.kind == "ollama":
            return self.ollama
        return self.ollama.model_copy(update={"host": self.host.url})

    def base(self, config: TrainingConfig, key: str) -> BaseModelSpec:
        """Resolve a base model in this installation's model folder."""
        return config.base(key, self.model_dir or self.data_dir / config.paths.base)


class _CommonNames(PydanticBaseSettingsSource):
    """Reads the names without a prefix."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for variable, (section, name) in COMMON_NAMES.items():
            if text := os.environ.get(variable):
                values.setdefault(section, {})[name] = text
        return values


class _YamlFile(YamlConfigSettingsSource):
    """Reads the file that MODELSERVER_CONFIG_FILE names."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, yaml_file=os.environ.get(CONFIG_FILE_VARIABLE))
