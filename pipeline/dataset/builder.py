"""Data sets by elder and base model, below one folder."""

from pathlib import Path

from config.training import TrainingConfig
from pipeline.dataset.answers import AnswerSource
from pipeline.dataset.dataset import Dataset, JSONLBuilder
from pipeline.text.system_prompt import SystemPromptGenerator


class DatasetBuilder:
    """Builds an elder's data set for a base model, below one folder."""

    def __init__(self, source: AnswerSource, config: TrainingConfig, folder: Path) -> None:
        self._source = source
        self._config = config
        self._folder = folder

    def path_of(self, elder_id: str, sha256: str) -> Path:
        """Where a data set lies, or would lie."""
        return self._folder / elder_id / f"{sha256}.jsonl"

    def build(
        self, elder_id: str, elder_name: str, base: str, max_seq_length: int | None = None
    ) -> Dataset:
        """Build the data set as it is taught to this base model."""
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
