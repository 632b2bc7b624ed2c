"""A job's plan: the base, the parameters and the data set with which it trains."""

import hashlib
from collections.abc import Callable

from config.training import TrainingConfig
from pipeline.dataset.builder import DatasetBuilder
from pipeline.dataset.dataset import Dataset
from pipeline.training.revision import RECIPE_REVISION
from schemas.base import Frozen
from schemas.documents import Job, ModelVersion
from schemas.events import apply_overrides
from schemas.training import BaseModelSpec, TrainingParameters

FindBase = Callable[[str], BaseModelSpec]


class Plan(Frozen):
    """A job's inputs; `recipe_sha256` identifies the recipe's revision, base and parameters."""

    base: BaseModelSpec
    parameters: TrainingParameters
    dataset: Dataset
    recipe_sha256: str

    @property
    def inputs(self) -> dict[str, str]:
        """The inputs as fields of ModelVersion, for the registry."""
        return {
            "base_model": self.base.key,
            "method": "lora",
            "recipe_sha256": self.recipe_sha256,
            "dataset_sha256": self.dataset.sha256,
        }

    def is_of(self, version: ModelVersion) -> bool:
        """Say whether a version was made from the same inputs."""
        made_of = (version.dataset_sha256, version.base_model, version.recipe_sha256)
        return made_of == (self.dataset.sha256, self.base.key, self.recipe_sha256)


def make_plan(
    job: Job, config: TrainingConfig, datasets: DatasetBuilder, find_base: FindBase
) -> Plan:
    """Build a job's data set, and resolve its base and parameters from job and configuration."""
    key = job.base_model or config.current_model
    base = find_base(key)
    parameters = apply_overrides(config.parameters(key), job.overrides)
    dataset = datasets.build(job.elder_id, job.elder_name, key, parameters.max_seq_length)
    made_by = f"{RECIPE_REVISION}\0{key}\0{parameters.model_dump_json()}"
    recipe_sha256 = hashlib.sha256(made_by.encode()).hexdigest()
    return Plan(base=base, parameters=parameters, dataset=dataset, recipe_sha256=recipe_sha256)
