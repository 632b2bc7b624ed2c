"""One attempt at a job's training: its folder, the attempts it resumes from, its outcome."""

import shutil
from pathlib import Path

from pipeline.jobs.job_progress import JobProgress
from pipeline.jobs.plan import Plan
from pipeline.jobs.training_process import TrainingRunner
from pipeline.storage.folders import check_folder
from schemas.documents import Job
from schemas.errors import TrainingFailed
from schemas.training import ADAPTER_FOLDER, ADAPTER_GGUF, TrainingOutcome, TrainingSpec


def attempt_folder(adapters: Path, job: Job) -> Path:
    """Return the folder of the attempt with the job's present fence."""
    return adapters / job.elder_id / job.id / str(job.fence)


def train_attempt(
    job: Job, plan: Plan, folder: Path, runner: TrainingRunner, progress: JobProgress
) -> TrainingOutcome:
    """Train in the attempt's folder and verify the adapter that was written there.

    Raises what `TrainingRunner.run` raises, and ArtefactCorrupt.
    """
    plan.dataset.check()
    spec = TrainingSpec(
        job_id=job.id,
        elder_id=job.elder_id,
        fence=job.fence,
        base=plan.base,
        parameters=plan.parameters,
        dataset_path=plan.dataset.path,
        dataset_sha256=plan.dataset.sha256,
        work_dir=folder,
        resume_from=tuple(folder.parent / str(fence) for fence in range(job.fence - 1, 0, -1)),
    )
    # The run resumes from the checkpoints of earlier attempts, but their adapters are of no use. A
    # job that is attempted many times while its host is down must not fill the disk with them.
    for earlier in spec.resume_from:
        shutil.rmtree(earlier / ADAPTER_FOLDER, ignore_errors=True)
    outcome = runner.run(spec, progress.train, progress.check)
    left_in = {outcome.adapter_path, outcome.gguf_path.parent}
    if left_in != {folder / ADAPTER_FOLDER} or outcome.gguf_path.name != ADAPTER_GGUF:
        raise TrainingFailed("the training left its adapter outside this attempt's folder")
    check_folder(outcome.adapter_path, outcome.hashes)
    return outcome
