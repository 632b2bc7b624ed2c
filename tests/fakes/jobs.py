"""Jobs for tests, the parts that make and prove a job's form, and a queue of form jobs."""

from config.settings import EvaluationSettings, HostSettings
from pipeline.hosting.port import ModelHost
from pipeline.jobs.forms import FormMaker
from pipeline.jobs.idle import IdleHost
from pipeline.jobs.proof import Prover
from pipeline.jobs.training_process import TrainingRunner
from schemas.documents import ElderModel, Job
from schemas.events import ModelReady
from schemas.training import Quantization
from tests.fakes.clock import NOW, fixed_clock


def make_job(**fields: object) -> Job:
    """Build a running job; `fields` replace its defaults."""
    defaults: dict[str, object] = {
        "id": "LXM_1734512345",
        "request_source": "test",
        "request_id": "r1",
        "elder_id": "LXM",
        "elder_name": "李秀梅",
        "force_retrain": False,
        "base_model": None,
        "overrides": {},
        "status": "running",
        "sequence": 1,
        "attempt": 1,
        "fence": 1,
        "queued_at": NOW,
    }
    return Job.model_validate(defaults | fields)


def make_ready(job: Job) -> ModelReady:
    """Build the `model-ready` event of a job whose version is released."""
    return ModelReady(
        job_id=job.id,
        elder_id=job.elder_id,
        model="afs_elder_LXM",
        version=1,
        tag="afs_elder_LXM:v1",
        base_model="b",
        method="lora",
        dataset_sha256="a" * 64,
        adapter_sha256="b" * 64,
        evaluation=None,
        reused=False,
        previous_version=None,
    )


class MemoryForms:
    """Queues one job for each request of a form."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def request_form(
        self, model: ElderModel, number: int, *, makes_current: bool, request: str | None = None
    ) -> Job:
        """Return the job of this request; queue one if there is none."""
        name = request or f"v{number}/{len(self.jobs)}"
        job = make_job(
            id=f"{model.id}_{len(self.jobs)}",
            elder_id=model.id,
            request_source="forms",
            request_id=name,
            kind="form",
            form_version=number,
            makes_current=makes_current,
        )
        return self.jobs.setdefault(name, job)

    def requested_form(self, elder_id: str, request: str) -> Job | None:
        """Return the job of a request, or None."""
        return self.jobs.get(request)


def proving(
    host: ModelHost,
    runner: TrainingRunner,
    evaluation: EvaluationSettings,
    settings: HostSettings | None = None,
    quantization: Quantization = "q8_0",
) -> tuple[FormMaker, Prover]:
    """Return a form maker and a prover over one host; neither waits for the host to be idle."""
    forms = FormMaker(
        host, runner, settings or HostSettings(), quantization, num_ctx=512, clock=fixed_clock
    )
    prover = Prover(
        host=host,
        forms=forms,
        idle_host=IdleHost(host, evaluation.model_copy(update={"quiet_s": 0.0}), 512),
        settings=evaluation,
        quantization=quantization,
        num_ctx=512,
    )
    return forms, prover
