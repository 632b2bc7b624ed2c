"""The configured data set builder: the base model decides on parameters and system prompt."""

from pathlib import Path

from config.training import TrainingConfig
from pipeline.dataset.answers import AnswerSource
from pipeline.dataset.dataset import Dataset, JSONLBuilder
from pipeline.text.system_prompt import SystemPromptGenerator


class DatasetBuilder:
    """Builds data sets in one folder, with the settings that each base model has."""

    def __init__(self, source: AnswerSource, config: TrainingConfig, folder: Path) -> None:
        self._source = source
        self._config = config
        self._folder = folder

    def path_of(self, elder_id: str, sha256: str) -> Path:
        """Return the path of a data set, whether or not it exists."""
        return self._folder / elder_id / f"{sha256}.jsonl"

    def build(
        self, elder_id: str, elder_name: str, base: str, max_seq_length: int | None = None
    ) -> Dataset:
        """Build an elder's data set for a base model.

        `base` is the model's key in the configuration. `max_seq_length`, in tokens, takes
        precedence over the configured one. Raises what `JSONLBuilder.build_jsonl` raises.
        """
        length = max_seq_length or self._config.parameters(base).max_seq_length
        builder = JSONLBuilder(
            self._source,
            self._folder,
            SystemPromptGenerator(self._config.prompt_template),
            memories=self._config.memories_of(base),
            max_seq_length=length,
        )
        with builder:
            return builder.build_jsonl(elder_id, elder_name)
