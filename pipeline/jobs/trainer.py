"""A job's steps, from answers to the current version: prepare, train, convert, evaluate, publish.

Each step may be repeated: a worker that takes a job over continues from the state of the disk and
the registry. Steps that only the job's holder may take call `JobProgress.check` first.
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
from pipeline.jobs.proof import Lesson, Prover
from pipeline.jobs.training_process import TrainingRunner
from pipeline.storage.disk_errors import disk_errors
from pipeline.versions.latest import bring_latest
from pipeline.versions.registry import ModelRegistry
from schemas.documents import ElderModel, Job, ModelVersion, VersionForm
from schemas.errors import ArtefactCorrupt, JobCancelled, UnknownVersion
from schemas.events import ModelReady
from schemas.identifiers import job_id_for, model_name


class OllamaTrainer:
    """Runs a job's steps. The class keeps the name of the original API."""

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
        """`adapters` is the folder of all attempts; `on_stage` is called as each stage begins.

        `num_ctx` is the window, in tokens, with which other models are asked to find out whether
        a failure is the host's or this job's.
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
        """Train a model in this process and without the ledger, for notebooks and scripts."""
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
        """Run a job and return its `model-ready`; raises any ModelServerError.

        Returns None if a form job made a version's form again and that version is not the
        current one. A cancel after the release comes too late: the version is current already,
        so the job succeeds.
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
        """Fence off the job's earlier holders, which may not know that they lost their lease.

        Return the version that one of them released, if there is one.
        """
        return self._registry.fence_off(job)

    def _released(self, job: Job) -> ModelVersion | None:
        """Return the job's version if an earlier holder released it and then died."""
        if job.kind == "form":
            return None  # A form job repeats its steps: those already done change nothing.
        version = self.fence_off(job)
        if version is None or not self._host.has(version.tag):
            return None
        return version

    def _reusable(self, job: Job, plan: Plan, progress: JobProgress) -> ModelVersion | None:
        """Return the current version if it was made from the same inputs and can be served."""
        model = None if job.force_retrain else self._registry.find(job.elder_id)
        current = model.serving if model else None
        if current is None or not current.ready or not plan.is_of(current):
            return None
        try:
            self._ensure_served(job, current, progress)
        except ArtefactCorrupt:
            return None  # Its adapter or data set is gone or damaged: train again.
        return current

    def _serve_again(self, job: Job, progress: JobProgress) -> ModelVersion:
        """Run a form job: have its version served, and make it current if the job says so."""
        model = self._registry.get(job.elder_id)
        version = model.version(job.form_version or 0)
        if version is None or not version.ready:
            raise UnknownVersion
        self._ensure_served(job, version, progress)
        progress.check()
        if job.makes_current:
            self._make_current(job, version)
        return version

    def _make_current(self, job: Job, version: ModelVersion) -> None:
        """Make a version current, unless another became current since the job was requested."""
        number, request = version.version, job.command
        if self._registry.select(job.elder_id, number, seen=job.replaces, request=request):
            return
        model = self._registry.get(job.elder_id)
        if job.command not in model.commands:  # Otherwise an earlier attempt did it.
            raise JobCancelled(
                f"version {model.current} was let answer meanwhile, or the job was cancelled; "
                "nothing was changed"
            )

    def _ensure_served(self, job: Job, version: ModelVersion, progress: JobProgress) -> None:
        """Make a version's form again from its stored adapter, if the host lacks it."""
        if self._host.has(version.tag) and not self._is_outdated(job, version):
            return
        base = self._find_base(version.base_model)
        dataset = self._datasets.path_of(job.elder_id, version.dataset_sha256)
        source = stored_source(version, base, self._adapters / job.elder_id, dataset)
        lesson = Lesson(dataset=dataset, examples=count_lines(dataset))
        self._forms.require(base, self._adapters)
        progress.begin("converting")
        with self._candidates.named(job, version) as candidate:
            form = self._prove(job, candidate, source, lesson, progress)
            progress.begin("publishing")
            self._host.copy(candidate, version.tag)
        self._registry.record_form(job.elder_id, version.version, form)

    def _is_outdated(self, job: Job, version: ModelVersion) -> bool:
        """Say whether the host no longer serves the form that a form job's version has.

        An upgraded Ollama may still list adapters that it no longer serves.
        """
        return job.kind == "form" and version.form not in self._host.describe().forms

    def _make(self, job: Job, plan: Plan, progress: JobProgress) -> ModelVersion:
        """Train a version, evaluate it and release it."""
        self._forms.require(plan.base, self._adapters)
        version = self._registry.open_version(job, plan.inputs, self._clock())
        with self._candidates.named(job, version) as candidate:
            folder = attempt_folder(self._adapters, job)
            outcome = train_attempt(job, plan, folder, self._runner, progress)
            plan.dataset.check()  # Training may have read it hours ago.
            source = FormSource(
                base=plan.base,
                adapter=outcome.gguf_path,
                adapter_sha256=outcome.gguf_sha256,
                system=plan.dataset.system_prompt,
            )
            lesson = Lesson(dataset=plan.dataset.path, examples=plan.dataset.examples)
            form = self._prove(job, candidate, source, lesson, progress)
            progress.begin("publishing")
            self._host.copy(candidate, version.tag)
            proven = version.model_copy(
                update={
                    "adapter_sha256": outcome.adapter_sha256,
                    "gguf_sha256": outcome.gguf_sha256,
                    "forms": (form,),
                    "evaluation": form.evaluation,
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
    ) -> VersionForm:
        return self._prover.prove(
            candidate,
            self._forms.choose(),
            source=source,
            lesson=lesson,
            job=job,
            work_dir=attempt_folder(self._adapters, job),
            progress=progress,
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
    """Count a data set's examples, one per line."""
    with path.open("rb") as lines:
        return sum(1 for _ in lines)
