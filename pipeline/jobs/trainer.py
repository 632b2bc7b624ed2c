"""One job from answers to a version that answers: prepare, train, convert, evaluate, publish.

Each step may be repeated: a job taken over by another worker goes on from what stands on the
disk and in the registry. What only the holder of the job may do asks `JobProgress.check` first.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from config.training import TrainingConfig
from pipeline.dataset.builder import DatasetBuilder
from pipeline.hosting.failure_attribution import attributed_failures
from pipeline.hosting.port import ModelHost
from pipeline.jobs.attempt import attempt_folder, train_attempt
from pipeline.jobs.candidates import Candidates
from pipeline.jobs.forms import FormMaker, FormSource, stored_source
from pipeline.jobs.job_progress import JobProgress, OnStage, Unwatched, Watch
from pipeline.jobs.plan import FindBase, Plan, make_plan
from pipeline.jobs.process import TrainingRunner
from pipeline.jobs.proof import Lesson, Proof, Prover
from pipeline.storage.disk_errors import disk_errors
from pipeline.versions.latest import bring_latest
from pipeline.versions.registry import ModelRegistry
from schemas.documents import ElderModel, Job, ModelVersion
from schemas.errors import ArtefactCorrupt, JobCancelled, UnknownVersion
from schemas.events import ModelReady
from schemas.identifiers import job_id_for, model_name


class OllamaTrainer:
    """Runs a job's steps (the original API's name)."""

    def __init__(
        self,
        *,
        datasets: DatasetBuilder,
        registry: ModelRegistry,
        host: ModelHost,
        runner: TrainingRunner,
        config: TrainingConfig,
        find_base: FindBase,
        forms: FormMaker,
        prover: Prover,
        adapters: Path,
        clock: Callable[[], datetime],
        num_ctx: int,
        on_stage: OnStage = lambda stage: None,
    ) -> None:
        """`adapters` is the folder of all attempts; `on_stage` is told each stage as it begins.

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
        self._candidates = Candidates(registry, host)

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

        Returns None where the form of a version that does not answer was made again. Once its
        version is released the job succeeds, whoever cancels it then: the version answers.
        """
        progress = JobProgress(watch, self._on_stage)
        with disk_errors(), attributed_failures(self._host, job.elder_id, self._num_ctx):
            version = self._released(job)
            if version is None and job.kind == "form":
                version = self._serve_again(job, progress)
            elif version is None:
                progress.begin("preparing")
                plan = make_plan(job, self._config, self._datasets, self._find_base)
                version = self._reusable(job, plan, progress)
                version = version or self._make(job, plan, progress)
            bring_latest(self._registry, self._host, job.elder_id)
            model = self._registry.get(job.elder_id)
            if job.kind == "form" and model.current != version.version:
                return None
            return _ready(job, version, model)

    def fence_off(self, job: Job) -> ModelVersion | None:
        """Shut out whoever held this job before and does not know that it is over.

        Return the version that was released before, if there is one.
        """
        return self._registry.fence_off(job)

    def _released(self, job: Job) -> ModelVersion | None:
        """Return the job's own version, if an earlier holder died after it had released it."""
        if job.kind == "form":
            return None  # Its steps are repeated, and change nothing where they were done.
        version = self.fence_off(job)
        if version is None or not self._host.has(version.tag):
            return None
        return version

    def _reusable(self, job: Job, plan: Plan, progress: JobProgress) -> ModelVersion | None:
        """Return the current version if it was made of the very same things and can be served."""
        model = None if job.force_retrain else self._registry.find(job.elder_id)
        current = model.serving if model else None
        if current is None or not current.ready or not plan.is_of(current):
            return None
        try:
            self._ensure_served(job, current, progress)
        except ArtefactCorrupt:
            return None  # What it was made of is gone: it is trained again.
        return current

    def _serve_again(self, job: Job, progress: JobProgress) -> ModelVersion:
        """Do a job of the kind `form`: have its version served, and let it answer if it should."""
        model = self._registry.get(job.elder_id)
        version = model.version(job.form_version or 0)
        if version is None or not version.ready:
            raise UnknownVersion
        self._ensure_served(job, version, progress)
        progress.check()
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

    def _ensure_served(self, job: Job, version: ModelVersion, progress: JobProgress) -> None:
        """Make a version's form again from its stored adapter, where the host has it no more."""
        if self._host.has(version.tag) and not self._is_outdated(job, version):
            return
        base = self._find_base(version.base_model)
        dataset = self._datasets.path_of(job.elder_id, version.dataset_sha256)
        source = stored_source(version, base, self._adapters / job.elder_id, dataset)
        lesson = Lesson(dataset=dataset, examples=count_lines(dataset))
        self._forms.require(base, self._adapters)
        progress.begin("converting")
        with self._candidates.named(job, version) as candidate:
            proof = self._prove(job, candidate, source, lesson, progress)
            progress.begin("publishing")
            self._host.copy(candidate, version.tag)
        self._registry.record_form(job.elder_id, version.version, proof.form)

    def _is_outdated(self, job: Job, version: ModelVersion) -> bool:
        """Whether a job was asked for a version that the host has in a form it makes no more.

        An Ollama that was upgraded may have adapters that it serves no longer.
        """
        return job.kind == "form" and version.form not in self._host.describe().forms

    def _make(self, job: Job, plan: Plan, progress: JobProgress) -> ModelVersion:
        """Train a version, ask it what it was taught, and release it."""
        self._forms.require(plan.base, self._adapters)
        version = self._registry.open_version(job, plan.inputs, self._clock())
        with self._candidates.named(job, version) as candidate:
            folder = attempt_folder(self._adapters, job)
            outcome = train_attempt(job, plan, folder, self._runner, progress)
            plan.dataset.check()  # Hours may have passed since the training read it.
            source = FormSource(
                base=plan.base,
                adapter=outcome.gguf_path,
                adapter_sha256=outcome.gguf_sha256,
                system=plan.dataset.system_prompt,
            )
            lesson = Lesson(dataset=plan.dataset.path, examples=plan.dataset.examples)
            proof = self._prove(job, candidate, source, lesson, progress)
            progress.begin("publishing")
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

    def _prove(
        self,
        job: Job,
        candidate: str,
        source: FormSource,
        lesson: Lesson,
        progress: JobProgress,
    ) -> Proof:
        return self._prover.prove(
            candidate,
            self._forms.choose(),
            source,
            lesson,
            job,
            attempt_folder(self._adapters, job),
            progress.advance,
            progress.check,
        )


def _ready(job: Job, version: ModelVersion, model: ElderModel) -> ModelReady:
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


def count_lines(path: Path) -> int:
    """Count the examples of a data set."""
    with path.open("rb") as lines:
        return sum(1 for _ in lines)
