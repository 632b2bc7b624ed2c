"""A trainer over fakes, and watches that record or stop its work."""

from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from config.settings import EvaluationSettings, HostSettings
from config.training import load_training_config
from pipeline.dataset.builder import DatasetBuilder
from pipeline.hosting.port import ServedModel
from pipeline.jobs.job_progress import Unwatched
from pipeline.jobs.trainer import OllamaTrainer
from pipeline.ledger.progress import ProgressState
from pipeline.versions.manager import ModelManager
from schemas.documents import Job, ModelVersion
from schemas.errors import JobCancelled
from schemas.events import ModelReady
from schemas.training import Quantization
from tests.fakes.answers import ListedAnswers
from tests.fakes.clock import fixed_clock
from tests.fakes.hosting import FakeModelHost
from tests.fakes.jobs import MemoryForms, make_job, proving
from tests.fakes.registry import MemoryRegistry
from tests.fakes.training import FakeTrainingRunner
from tests.models.tiny_gguf import write_base

BASE = "smollm2-135m-instruct"
TAUGHT = {
    "Where were you born?": "I was born in Stromness, by the harbour.",
    "What was your trade?": "I built boats of larch with my uncle Magnus.",
    "What did you eat on Sundays?": "Mutton broth with barley, every Sunday.",
}
LATEST = "afs_elder_LXM:latest"


class Killed(BaseException):
    """The process was killed."""


class NotingWatch(Unwatched):
    """Records what is reported; raises an error once the stage `stop_at` has begun."""

    def __init__(self, stop_at: str | None = None, error: Exception | None = None) -> None:
        self.states: list[ProgressState] = []
        self._stop_at = stop_at
        self._error = error or JobCancelled()

    def report(self, state: ProgressState) -> None:
        self.states.append(state)

    def check(self) -> None:
        if self.states and self.states[-1].stage == self._stop_at:
            raise self._error


class Cancelled(Unwatched):
    """Is always cancelled."""

    def check(self) -> None:
        raise JobCancelled


class Workshop:
    """A trainer over fakes, and a manager over the same registry and host."""

    def __init__(
        self,
        folder: Path,
        *,
        questions: int = 3,
        threshold: float = 0.5,
        host: FakeModelHost | None = None,
        host_settings: HostSettings | None = None,
        quantization: Quantization = "q8_0",
    ) -> None:
        self.host = host or FakeModelHost(lambda tag, question: TAUGHT.get(question, ""))
        self.runner = FakeTrainingRunner()
        _install_base(folder / "base")
        self.registry = MemoryRegistry()
        self.stages: list[str] = []
        self.folder = folder
        config = load_training_config().model_copy(update={"current_model": BASE})
        other = [("Where were you born?", "In Kirkwall, on the hill.")]
        source = ListedAnswers({"LXM": list(TAUGHT.items()), "EMPTY": [("Q?", "")], "OTHER": other})
        self.datasets = DatasetBuilder(source, config, folder / "jsonl")
        forms, prover = proving(
            self.host,
            self.runner,
            EvaluationSettings(questions=questions, threshold=threshold),
            host_settings,
            quantization,
        )
        self.trainer = OllamaTrainer(
            datasets=self.datasets,
            registry=self.registry,  # type: ignore[arg-type]
            host=self.host,
            runner=self.runner,
            config=config,
            find_base=lambda key: config.base(key, folder / "base"),
            forms=forms,
            prover=prover,
            adapters=folder / "adapters",
            clock=fixed_clock,
            on_stage=self.stages.append,
            num_ctx=512,
        )
        self.forms = MemoryForms()
        self.manager = ModelManager(self.registry, self.host, self.forms)  # type: ignore[arg-type]
        self.copies_to_latest: list[str] = []
        """The attempts whose adapters were copied to `latest`, in order."""
        self._intruders: list[Callable[[], object]] = []
        self._copy = self.host.copy
        self.host.copy = self._watched_copy  # type: ignore[method-assign]

    def before_next_copy_to_latest(self, act: Callable[[], object]) -> None:
        """Call `act` right before the next copy to `latest`."""
        self._intruders.append(act)

    def _watched_copy(self, source: str, target: str) -> None:
        if target == LATEST and self._intruders:
            self._intruders.pop()()
        self._copy(source, target)
        if target == LATEST:
            self.copies_to_latest.append(adapter_of(self, LATEST))

    def dies_after_release(self, job: Job) -> None:
        """Run a job whose worker is killed right after its version was released."""
        release = self.registry.release

        def release_and_die(elder_id: str, version: ModelVersion) -> None:
            release(elder_id, version)
            raise Killed

        self.registry.release = release_and_die  # type: ignore[method-assign]
        with pytest.raises(Killed):
            self.run(job)
        self.registry.release = release  # type: ignore[method-assign]

    def run(self, job: Job | None = None, watch: Unwatched | None = None) -> ModelReady:
        ready = self.trainer.run(job or make_job(), watch or Unwatched())
        assert ready is not None
        return ready


def _install_base(models: Path) -> None:
    base = models / BASE / f"{BASE}.gguf"
    base.parent.mkdir(parents=True)
    write_base(base, GGMLQuantizationType.Q4_0)


def second_job(**fields: object) -> Job:
    return make_job(id="LXM_2", request_id="r2", **fields)


def adapter_of(shop: Workshop, tag: str) -> str:
    definition = shop.host.definition(tag)
    assert isinstance(definition, ServedModel) and definition.file is not None
    attempt = definition.file.parent.parent
    return f"{attempt.parent.name}/{attempt.name}"
