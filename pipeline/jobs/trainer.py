"""One job from answers to a version that answers: prepare, train, convert, evaluate, publish.

Each step may be repeated: a job taken over by another worker goes on from what stands on the
disk and in the registry. What only the holder of the job may do asks `Watch.check` first.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from config.training import TrainingConfig
from pipeline.dataset.builder import DatasetBuilder
from pipeline.dataset.dataset import Dataset
from pipeline.hosting.failure_attribution import attributed_failures
from pipeline.hosting.port import ModelHost
from pipeline.jobs.forms import FormMaker, FormSource, stored_source
from pipeline.jobs.process import TrainingRunner
from pipeline.jobs.proof import Lesson, Proof, Prover
from pipeline.ledger.progress import ProgressState, ProgressTracker
from pipeline.storage.files import check_folder, disk_errors
from pipeline.training.revision import RECIPE_REVISION
from pipeline.versions.latest import bring_latest
from pipeline.versions.registry import ModelRegistry
from schemas.base import Frozen
from schemas.documents import ElderModel, Job, ModelVersion
from schemas.errors import ArtefactCorrupt, JobCancelled, TrainingFailed, UnknownVersion
from schemas.events import ModelReady, Stage, apply_overrides
from schemas.identifiers import (
    candidate_tag,
    job_id_for,
    model_name,
    read_candidate,
)
from schemas.training import (
    ADAPTER_FOLDER,
    ADAPTER_GGUF,
    BaseModelSpec,
    TrainingOutcome,
    TrainingParameters,
    TrainingProgress,
    TrainingSpec,
)


class Watch(Protocol):
    """The job's holder, as the steps see it."""

    def check(self) -> None:
        """Raise LeaseLost, JobCancelled or Interrupted when the work must stop."""

    def report(self, state: ProgressState) -> None:
        """Take note of progress."""


class Unwatched:
    """A watch for work without a ledger: nothing stops it, nothing is noted."""

    def check(self) -> None:
        """Never stop."""

    def report(self, state: ProgressState) -> None:
        """Note nothing."""


class Plan(Frozen):
    """What a job comes down to: this base, these parameters, this data set."""

    base: BaseModelSpec
    parameters: TrainingParameters
    dataset: Dataset
    recipe_sha256: str


class OllamaTrainer:
    """Runs a job's steps (the original API's name)."""

    def __init__(
        self,
        datasets: DatasetBuilder,
        registry: ModelRegistry,
        host: ModelHost,
        runner: TrainingRunner,
        config: TrainingConfig,
        find_base: Callable[[str], BaseModelSpec],
        forms: FormMaker,
        prover: Prover,
        adapters: Path,
        clock: Callable[[], datetime],
        on_stage: Callable[[Stage], None] = lambda stage: None,
        *,
        num_ctx: int,
    ) -> None:
        """`adapters` is the folder of all work; `on_stage` is told each stage as it begins.

        `num_ctx` is the window, in tokens, with which the host's other models are asked.
        """
        self._datasets = datasets
        self._registry = registry
        self._host = host
        self._runner = runner
        self._config = config
        self._find_base = find_base
        self._forms = forms
        self._prover = prover
        self._adapters = adapters
        self._clock = clock
        self._on_stage = on_stage
        self._num_ctx = num_ctx

    def train(self, elder_id: str, elder_name: str, *, force_retrain: bool = False) -> ModelReady:
        """Train a model here and now, without a ledger; for notebooks and scripts."""
        now = self._clock()
        job_id = job_id_for(elder_id, int(now.timestamp()))
        job = Job(
            id=job_id,
            request_source="local",
            request_id=job_id,
            elder_id=elder_id,
            elder_name=elder_name,
            force_retrain=force_retrain,
            base_model=None,
            overrides={},
            status="running",
            sequence=1,
            attempt=1,
            fence=1,
            queued_at=now,
        )
        ready = self.run(job, Unwatched())
        assert ready is not None, "a training always ends with a version"
        return ready

    def run(self, job: Job, watch: Watch) -> ModelReady | None:
        """Run a job to its `model-ready`; each error of the tree goes through.

        None where a form was made again of a version that does not answer.

        Once its version is released nobody is asked any more whether to go on: it answers, so
        the job succeeds, whoever cancels it now.
        """
        tracker = ProgressTracker()
        with disk_errors(), attributed_failures(self._host, job.elder_id, self._num_ctx):
            version = self._released(job)
            if version is None and job.kind == "form":
                version = self._serve_again(job, tracker, watch)
            elif version is None:
                self._begin("preparing", tracker, watch)
                plan = self._plan(job)
                version = self._reusable(job, plan, tracker, watch)
                version = version or self._make(job, plan, tracker, watch)
            bring_latest(self._registry, self._host, job.elder_id)
            model = self._registry.get(job.elder_id)
            if job.kind == "form" and model.current != version.version:
                return None
            return self._ready(job, version, model)

    def fence_off(self, job: Job) -> ModelVersion | None:
        """Shut out whoever held this job before and does not know that it is over.

        Return the version that was released before, if there is one.
        """
        return self._registry.fence_off(job)

    def _released(self, job: Job) -> ModelVersion | None:
        """The job's own version, if an earlier holder died after it had released it."""
        if job.kind == "form":
            return None  # Its steps are repeated, and change nothing where they were done.
        version = self.fence_off(job)
        if version is None or not self._host.has(version.tag):
            return None
        return version

    def _remove_earlier_candidates(self, candidate: str, elder_id: str) -> None:
        """Shut out earlier holders of this job from Ollama too, which knows no fences.

        A version's tag is copied from a candidate, and a candidate that is gone cannot be
        copied. Only earlier ones go: this may itself be a worker that lost its lease.
        """
        mine = read_candidate(candidate)
        for name in self._registry.get(elder_id).passing:
            found = read_candidate(name)
            if mine is not None and found is not None and found < mine:
                self._host.delete(name)

    def _plan(self, job: Job) -> Plan:
        key = job.base_model or self._config.current_model
        base = self._find_base(key)
        parameters = apply_overrides(self._config.parameters(key), job.overrides)
        dataset = self._datasets.build(job.elder_id, job.elder_name, key, parameters.max_seq_length)
        made_by = f"{RECIPE_REVISION}\0{key}\0{parameters.model_dump_json()}"
        recipe_sha256 = hashlib.sha256(made_by.encode()).hexdigest()
        return Plan(base=base, parameters=parameters, dataset=dataset, recipe_sha256=recipe_sha256)

    def _reusable(
        self, job: Job, plan: Plan, tracker: ProgressTracker, watch: Watch
    ) -> ModelVersion | None:
        """Return the current version if it was made of the very same things and can be served."""
        model = None if job.force_retrain else self._registry.find(job.elder_id)
        current = model.serving if model else None
        if current is None or not current.ready:
            return None
        same = (current.dataset_sha256, current.base_model, current.recipe_sha256) == (
            plan.dataset.sha256,
            plan.base.key,
            plan.recipe_sha256,
        )
        if not same:
            return None
        try:
            self._ensure_served(job, current, tracker, watch)
        except ArtefactCorrupt:
            return None  # What it was made of is gone: it is trained again.
        return current

    def _serve_again(self, job: Job, tracker: ProgressTracker, watch: Watch) -> ModelVersion:
        """Do a job of the kind `form`: have its version served, and let it answer if it should."""
        model = self._registry.get(job.elder_id)
        version = model.version(job.form_version or 0)
        if version is None or not version.ready:
            raise UnknownVersion
        self._ensure_served(job, version, tracker, watch)
        watch.check()
        if job.makes_current:
            self._let_answer(job, version)
        return version

    def _let_answer(self, job: Job, version: ModelVersion) -> None:
        """Let a version answer whose form was made for that, unless something newer was asked."""
        number, request = version.version, job.command
        if self._registry.select(job.elder_id, number, seen=job.replaces, request=request):
            return
        model = self._registry.get(job.elder_id)
        if job.command not in model.commands:  # Else it was done by an earlier attempt.
            raise JobCancelled(
                f"version {model.current} was let answer meanwhile, or the job was cancelled; "
                "nothing was changed"
            )

    def _ensure_served(
        self, job: Job, version: ModelVersion, tracker: ProgressTracker, watch: Watch
    ) -> None:
        """Make a version's form again from its stored adapter, where the host has it no more."""
        if self._host.has(version.tag) and not self._is_outdated(job, version):
            return
        base = self._find_base(version.base_model)
        dataset = self._datasets.path_of(job.elder_id, version.dataset_sha256)
        source = stored_source(version, base, self._adapters / job.elder_id, dataset)
        lesson = Lesson(dataset=dataset, examples=count_lines(dataset))
        self._forms.require(base, self._adapters)
        self._begin("converting", tracker, watch)
        with self._candidate(job, version) as candidate:
            proof = self._prove(job, candidate, source, lesson, tracker, watch)
            self._begin("publishing", tracker, watch)
            self._host.copy(candidate, version.tag)
        self._registry.record_form(job.elder_id, version.version, proof.form)

    def _is_outdated(self, job: Job, version: ModelVersion) -> bool:
        """Whether a job was asked for a version that the host has in a form it makes no more.

        An Ollama that was upgraded may have adapters that it serves no longer.
        """
        return job.kind == "form" and version.form not in self._host.describe().forms

    def _make(self, job: Job, plan: Plan, tracker: ProgressTracker, watch: Watch) -> ModelVersion:
        """Train a version, ask it what it was taught, and release it."""
        self._forms.require(plan.base, self._adapters)
        version = self._registry.open_version(job, _made_of(plan), self._clock())
        with self._candidate(job, version) as candidate:
            outcome = self._train(job, plan, tracker, watch)
            plan.dataset.check()  # Hours may have passed since the training read it.
            source = FormSource(
                base=plan.base,
                adapter=outcome.gguf_path,
                adapter_sha256=outcome.gguf_sha256,
                system=plan.dataset.system_prompt,
            )
            lesson = Lesson(dataset=plan.dataset.path, examples=plan.dataset.examples)
            proof = self._prove(job, candidate, source, lesson, tracker, watch)
            self._begin("publishing", tracker, watch)
            self._host.copy(candidate, version.tag)
            proven = version.model_copy(
                update={
                    "adapter_sha256": outcome.adapter_sha256,
                    "gguf_sha256": outcome.gguf_sha256,
                    "forms": (proof.form,),
                    "evaluation": proof.evaluation,
                    "ready": True,
                }
            )
            self._registry.release(job.elder_id, proven)
            return proven

    @contextmanager
    def _candidate(self, job: Job, version: ModelVersion) -> Iterator[str]:
        """Give the name of a version's candidate, which is gone afterwards."""
        form_job = job.id if job.kind == "form" or version.job_id != job.id else None
        candidate = candidate_tag(job.elder_id, version.version, job.fence, form_job)
        self._registry.note_passing(job.elder_id, candidate)
        self._remove_earlier_candidates(candidate, job.elder_id)
        try:
            yield candidate
        finally:
            self._host.delete(candidate)
            self._registry.drop_passing(job.elder_id, candidate)

    def _prove(
        self,
        job: Job,
        candidate: str,
        source: FormSource,
        lesson: Lesson,
        tracker: ProgressTracker,
        watch: Watch,
    ) -> Proof:
        def on_fraction(stage: Stage, fraction: float) -> None:
            if tracker.state.stage != stage:
                self._begin(stage, tracker, watch)
            _note(watch, tracker.update_progress(fraction))

        return self._prover.prove(
            candidate,
            self._forms.choose(),
            source,
            lesson,
            job,
            self._work_dir(job),
            on_fraction,
            watch.check,
        )

    def _work_dir(self, job: Job) -> Path:
        return self._adapters / job.elder_id / job.id / str(job.fence)

    def _train(
        self, job: Job, plan: Plan, tracker: ProgressTracker, watch: Watch
    ) -> TrainingOutcome:
        plan.dataset.check()
        work_dir = self._work_dir(job)
        spec = TrainingSpec(
            job_id=job.id,
            elder_id=job.elder_id,
            fence=job.fence,
            base=plan.base,
            parameters=plan.parameters,
            dataset_path=plan.dataset.path,
            dataset_sha256=plan.dataset.sha256,
            work_dir=work_dir,
            resume_from=tuple(
                work_dir.parent / str(fence) for fence in range(job.fence - 1, 0, -1)
            ),
        )

        # What earlier attempts exported is of no use any more, and may be large: a job that waits
        # for Ollama long after its training must not fill the disk.
        for earlier in spec.resume_from:
            shutil.rmtree(earlier / ADAPTER_FOLDER, ignore_errors=True)

        def note(progress: TrainingProgress) -> None:
            if progress.stage != tracker.state.stage:
                self._on_stage(progress.stage)
            watch.report(tracker.update_training(progress))

        outcome = self._runner.run(spec, note, watch.check)
        left_in = {outcome.adapter_path, outcome.gguf_path.parent}
        if left_in != {spec.work_dir / ADAPTER_FOLDER} or outcome.gguf_path.name != ADAPTER_GGUF:
            raise TrainingFailed("the training left its adapter outside this attempt's folder")
        check_folder(outcome.adapter_path, outcome.hashes)
        return outcome

    def _begin(self, stage: Stage, tracker: ProgressTracker, watch: Watch) -> None:
        self._on_stage(stage)
        _note(watch, tracker.start_tracking(stage))

    def _ready(self, job: Job, version: ModelVersion, model: ElderModel) -> ModelReady:
        earlier = [v.version for v in model.versions if v.ready and v.version < version.version]
        return ModelReady(
            job_id=job.id,
            elder_id=job.elder_id,
            model=model_name(job.elder_id),
            version=version.version,
            tag=version.tag,
            base_model=version.base_model,
            method=version.method,
            dataset_sha256=version.dataset_sha256,
            adapter_sha256=version.adapter_sha256,
            evaluation=version.evaluation,
            reused=version.job_id != job.id,
            previous_version=max(earlier, default=None),
        )


def _made_of(plan: Plan) -> dict[str, str]:
    return {
        "base_model": plan.base.key,
        "method": "lora",
        "recipe_sha256": plan.recipe_sha256,
        "dataset_sha256": plan.dataset.sha256,
    }


def count_lines(path: Path) -> int:
    """Count the examples of a data set."""
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def _note(watch: Watch, state: ProgressState) -> None:
    watch.check()
    watch.report(state)
