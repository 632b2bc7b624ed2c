"""`training_config.yaml`: the base models, the training parameters and the prompt template.

A file with a wrong value is refused; the error names it, what was found and what was expected.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from schemas.base import Frozen
from schemas.errors import ConfigurationError, UnknownBaseModel
from schemas.training import BaseModelSpec, ChatFormatName, Quantization, TrainingParameters

BUNDLED_CONFIG = Path(__file__).parent / "training_config.yaml"
MODEL_DIR_TEMPLATE = "{{model_dir}}"

Language = Literal["zh", "en"]
PromptText = Annotated[str, StringConstraints(pattern=r"\{name\}")]


class _Yaml(Frozen):
    # YAML has neither paths nor tuples: text becomes a path where a path is expected.
    model_config = ConfigDict(strict=False)


class BaseModelEntry(_Yaml):
    """A base model; its `training` and `memories` override the general ones."""

    name: str
    hf_path: str
    gguf_path: str
    description: str = ""
    chat_format: ChatFormatName
    terms: str | None = None
    terms_url: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    memories: Annotated[int, Field(ge=0, le=100)] | None = None


class PromptTemplates(_Yaml):
    """The system prompt by language, with `{name}` and `{memories}`."""

    zh: PromptText
    en: PromptText


class DataPaths(_Yaml):
    """Folders below the data folder."""

    jsonl: Path = Path("data/jsonl")
    adapters: Path = Path("models/adapters")
    base: Path = Path("models/base")
    logs: Path = Path("logs")


class TrainingConfig(_Yaml):
    """The whole file."""

    current_model: str
    base_models: dict[str, BaseModelEntry]
    training: TrainingParameters = TrainingParameters()
    quantization: Quantization = "q8_0"
    memories: Annotated[int, Field(ge=0, le=100)] = 5
    prompt_template: PromptTemplates
    paths: DataPaths = DataPaths()

    def base(self, key: str, model_dir: Path) -> BaseModelSpec:
        """Resolve a base model's paths; raises UnknownBaseModel with the known ones."""
        entry = self._entry(key)
        return BaseModelSpec(
            key=key,
            name=entry.name,
            hf_path=_resolve(entry.hf_path, model_dir),
            gguf_path=_resolve(entry.gguf_path, model_dir),
            description=entry.description,
            chat_format=entry.chat_format,
            terms=entry.terms,
            terms_url=entry.terms_url,
        )

    def parameters(self, key: str) -> TrainingParameters:
        """Return the general parameters, overridden by the base model's own."""
        return self.training.overlaid(self._entry(key).training)

    def memories_of(self, key: str) -> int:
        """Return how many answers the system prompt quotes with this base model."""
        own = self._entry(key).memories
        return self.memories if own is None else own

    def _entry(self, key: str) -> BaseModelEntry:
        try:
            return self.base_models[key]
        except KeyError:
            known = ", ".join(self.base_models)
            raise UnknownBaseModel(f"base model not configured; known are: {known}") from None


def load_training_config(path: Path | None = None) -> TrainingConfig:
    """Read and check the file; raises ConfigurationError, which names every wrong value."""
    source = path or BUNDLED_CONFIG
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        config = TrainingConfig.model_validate(content)
        for key, entry in config.base_models.items():
            _check_entry(config, key, entry)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source}: cannot be read: {error}") from error
    except ValidationError as error:
        raise ConfigurationError(f"{source}: {describe_values(error)}") from error
    if config.current_model not in config.base_models:
        known = ", ".join(config.base_models)
        raise ConfigurationError(
            f"{source}: current_model: found {config.current_model!r}, expected one of: {known}"
        )
    return config


def describe_values(error: ValidationError) -> str:
    """Describe each wrong value: its name, what was found and what was expected."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))}: found {e['input']!r}, expected: {e['msg']}"
        for e in error.errors(include_url=False)
    )


def get_training_config(path: Path | None = None) -> TrainingConfig:
    """Return the training configuration (the original API's name)."""
    return load_training_config(path)


def get_current_model(path: Path | None = None) -> str:
    """Return the key of the base model in use (the original API's name)."""
    return load_training_config(path).current_model


def _check_entry(config: TrainingConfig, key: str, entry: BaseModelEntry) -> None:
    try:
        config.training.overlaid(entry.training)
    except ValidationError as error:
        detail = describe_values(error)
        raise ConfigurationError(f"base_models.{key}.training.{detail}") from error


def _resolve(template: str, model_dir: Path) -> Path:
    return Path(template.replace(MODEL_DIR_TEMPLATE, str(model_dir)))
