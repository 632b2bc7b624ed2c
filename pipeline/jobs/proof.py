"""A candidate's proof: a host is given a version's form, and asked what it was taught."""

from collections.abc import Callable
from pathlib import Path

from config.settings import EvaluationSettings
from pipeline.hosting.port import ModelHost
from pipeline.jobs.evaluation import evaluate, require_enough, sample_examples
from pipeline.jobs.forms import FormMaker, FormSource
from pipeline.jobs.quiet import QuietMoments
from schemas.base import Frozen
from schemas.documents import Job, VersionForm
from schemas.errors import QuantizationTooLossy
from schemas.events import Evaluation, Stage
from schemas.hosting import Form
from schemas.training import Quantization, TrainingProgress

# A quantised model may have lost so many of the answers that the adapter knew.
_MAY_FORGET = 1

OnFraction = Callable[[Stage, float], None]


class Lesson(Frozen):
    """What a version was taught: its data set's JSONL, of so many lines."""

    dataset: Path
    examples: int


class Proof(Frozen):
    """What a candidate is, and what it knew."""

    form: VersionForm
    evaluation: Evaluation


class Prover:
    """Makes candidates and asks them."""

    def __init__(
        self,
        host: ModelHost,
        forms: FormMaker,
        quiet: QuietMoments,
        settings: EvaluationSettings,
        quantization: Quantization,
        num_ctx: int,
    ) -> None:
        """`num_ctx` is the window, in tokens, that every call names."""
        self._host = host
        self._forms = forms
        self._quiet = quiet
        self._settings = settings
        self._quantization = quantization
        self._num_ctx = num_ctx

    def prove(
        self,
        candidate: str,
        form: Form,
        source: FormSource,
        lesson: Lesson,
        job: Job,
        work_dir: Path,
        on_fraction: OnFraction,
        check: Callable[[], None],
    ) -> Proof:
        """Give the host the form under a candidate's name, and ask it.

        `on_fraction` is told how much of a stage is done. Raises EvaluationFailed where it does
        not know enough, ChatFormatMismatch where it is asked otherwise than it was taught,
        QuantizationTooLossy where only its quantised form does not, and whatever the steps raise.
        """

        def prove_quantised(quantization: Quantization) -> Proof:
            def on_progress(progress: TrainingProgress) -> None:
                done = progress.step / progress.total_steps if progress.total_steps else 0.0
                on_fraction("converting", done)

            check()  # Ollama knows no fences: who lost the lease must not make a candidate.
            made = self._forms.make(
                candidate,
                form,
                source,
                job,
                work_dir,
                on_progress,
                check,
                quantization=quantization,
            )
            with self._quiet.quiet(candidate, form, check):
                self._forms.check_prompt(candidate, source)
                evaluation = self._evaluate(candidate, lesson, on_fraction)
            made = made.model_copy(update={"evaluation": evaluation})
            return Proof(form=made, evaluation=evaluation)

        proof = prove_quantised("q8_0")
        require_enough(proof.evaluation)
        if form != "merged" or self._quantization == "q8_0":
            return proof
        # Q8_0 keeps what was learnt (docs/benchmarks.md): it stands for the adapter here, which
        # today's Ollama would not serve.
        quantised = prove_quantised(self._quantization)
        _require_as_good(quantised.evaluation, proof.evaluation)
        require_enough(quantised.evaluation)
        return quantised

    def _evaluate(self, candidate: str, lesson: Lesson, on_fraction: OnFraction) -> Evaluation:
        on_fraction("evaluating", 0.0)
        examples = sample_examples(lesson.dataset, lesson.examples, self._settings.questions)
        return evaluate(
            self._host,
            candidate,
            examples,
            self._settings.threshold,
            lambda fraction: on_fraction("evaluating", fraction),
            num_ctx=self._num_ctx,
        )


def _require_as_good(quantised: Evaluation, whole: Evaluation) -> None:
    if quantised.right < whole.right - _MAY_FORGET:
        raise QuantizationTooLossy(
            f"as q4_k_m {quantised.right} of {quantised.asked} taught answers came back, as q8_0 "
            f"{whole.right}; set `quantization: q8_0`"
        )
