"""Proving a candidate: a host gets a version's form, and the model is asked what it was taught."""

from pathlib import Path

from config.settings import EvaluationSettings
from pipeline.hosting.port import ModelHost
from pipeline.jobs.evaluation import evaluate, require_enough, sample_examples
from pipeline.jobs.forms import FormMaker, FormSource
from pipeline.jobs.idle import IdleHost
from pipeline.jobs.job_progress import JobProgress
from schemas.base import Frozen
from schemas.documents import Job, VersionForm
from schemas.errors import QuantizationTooLossy
from schemas.events import Evaluation
from schemas.hosting import Form
from schemas.training import Quantization, TrainingProgress

# How many more answers the quantized form may miss than the q8_0 form.
_MAX_LOST_ANSWERS = 1


class Lesson(Frozen):
    """What a version was taught: the JSONL of its data set, and how many examples it holds."""

    dataset: Path
    examples: int


class Prover:
    """Makes candidates and evaluates them."""

    def __init__(
        self,
        *,
        host: ModelHost,
        forms: FormMaker,
        idle_host: IdleHost,
        settings: EvaluationSettings,
        quantization: Quantization,
        num_ctx: int,
    ) -> None:
        """`num_ctx` is the window, in tokens, with which the candidate is asked."""
        self._host = host
        self._forms = forms
        self._idle_host = idle_host
        self._settings = settings
        self._quantization = quantization
        self._num_ctx = num_ctx

    def prove(
        self,
        candidate: str,
        form: Form,
        *,
        source: FormSource,
        lesson: Lesson,
        job: Job,
        work_dir: Path,
        progress: JobProgress,
    ) -> VersionForm:
        """Make a form, give it to the host under the candidate's name, and evaluate it.

        Returns the form with its evaluation. A merged form that is to be quantized is proven as
        q8_0 first. Raises EvaluationFailed if too few taught answers come back,
        ChatFormatMismatch if the host renders another prompt than was trained on,
        QuantizationTooLossy if only the quantized form falls short, and whatever the steps and
        `progress.check` raise.
        """

        def prove_as(quantization: Quantization) -> tuple[VersionForm, Evaluation]:
            progress.check()  # A host checks no fences, so check the lease before each candidate.
            made = self._forms.make(
                candidate,
                form,
                source,
                job=job,
                work_dir=work_dir,
                quantization=quantization,
                on_progress=lambda measured: _report_conversion(progress, measured),
                check=progress.check,
            )
            with self._idle_host.when_idle(candidate, form, progress.check):
                self._forms.check_prompt(candidate, source)
                evaluation = self._evaluate(candidate, lesson, progress)
            return made.model_copy(update={"evaluation": evaluation}), evaluation

        made, evaluation = prove_as("q8_0")
        require_enough(evaluation)
        if form != "merged" or self._quantization == "q8_0":
            return made
        # The reference is q8_0, which keeps what was taught (docs/benchmarks.md): the adapter
        # itself cannot be asked, since a host that merges does not serve it.
        quantized, quantized_evaluation = prove_as(self._quantization)
        _require_as_good(quantized_evaluation, evaluation)
        require_enough(quantized_evaluation)
        return quantized

    def _evaluate(self, candidate: str, lesson: Lesson, progress: JobProgress) -> Evaluation:
        progress.advance("evaluating", 0.0)
        examples = sample_examples(lesson.dataset, lesson.examples, self._settings.questions)
        return evaluate(
            self._host,
            candidate,
            examples,
            self._settings.threshold,
            lambda fraction: progress.advance("evaluating", fraction),
            num_ctx=self._num_ctx,
        )


def _report_conversion(progress: JobProgress, measured: TrainingProgress) -> None:
    done = measured.step / measured.total_steps if measured.total_steps else 0.0
    progress.advance("converting", done)


def _require_as_good(quantized: Evaluation, reference: Evaluation) -> None:
    if quantized.right < reference.right - _MAX_LOST_ANSWERS:
        raise QuantizationTooLossy(
            f"as q4_k_m {quantized.right} of {quantized.asked} taught answers came back, as q8_0 "
            f"{reference.right}; set `quantization: q8_0`"
        )
