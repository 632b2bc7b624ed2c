"""A version's form: choosing it for a host, checking that it can be made, and making it.

A form is made from what is stored: the base, the adapter and the system prompt of the data set.
So it can be made again without training, for another host or for one that lost it.
"""

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from config.settings import HostSettings
from pipeline.hosting.port import ModelHost, ServedModel
from pipeline.hosting.prompt_check import check_prompt
from pipeline.jobs.training_process import OnProgress, TrainingRunner
from pipeline.storage.files import check_file
from pipeline.storage.folders import remove_remains, verify_folder
from pipeline.text.chat_format import chat_format
from pipeline.weights.architectures import check_architecture
from pipeline.weights.merge_plan import check_disk_space, plan_merge
from schemas.base import Frozen
from schemas.documents import Job, ModelVersion, VersionForm
from schemas.errors import (
    ArtefactCorrupt,
    ConfigurationError,
    FormUnsupported,
)
from schemas.hosting import MERGED_FOLDER, MERGED_GGUF, Form, HostDescription, MergeSpec
from schemas.identifiers import Sha256
from schemas.training import (
    ADAPTER_FOLDER,
    ADAPTER_GGUF,
    ADAPTER_WEIGHTS,
    BaseModelSpec,
    Quantization,
)


class FormSource(Frozen):
    """What a version's form is made from; `adapter` is the LoRA as GGUF, `system` the prompt."""

    base: BaseModelSpec
    adapter: Path
    adapter_sha256: Sha256
    system: str


class FormMaker:
    """Makes the form of a version that its host can serve, and creates the model there."""

    def __init__(
        self,
        host: ModelHost,
        runner: TrainingRunner,
        settings: HostSettings,
        quantization: Quantization,
        *,
        num_ctx: int,
        clock: Callable[[], datetime],
    ) -> None:
        """`num_ctx` is the window, in tokens, with which prompts are checked."""
        self._host = host
        self._runner = runner
        self._settings = settings
        self._quantization = quantization
        self._num_ctx = num_ctx
        self._clock = clock

    def choose(self) -> Form:
        """Ask the host which forms it serves, and return the one to make for it.

        Raises FormUnsupported, quoting the host, if the setting names a form that it refuses.
        """
        return choose_form(self._host, self._settings, self._host.describe())

    def require(self, base: BaseModelSpec, folder: Path) -> None:
        """Raise before training if the form could not be made after it.

        Raises FormUnsupported if the host does not serve the form or the quantizer is missing;
        ConfigurationError if the base has no GGUF; AdapterUnsupported for an architecture
        whose adapters have no GGUF form; DiskFull if `folder` has no space for a merge.
        """
        form = self.choose()
        if not base.gguf_path.is_file():
            raise ConfigurationError(
                f"base model: found no {base.gguf_path}, which the model host is given; put it "
                "there or set MODELSERVER_MODEL_DIR"
            )
        check_architecture(base)
        if form != "merged":
            return
        if self._quantization == "q4_k_m":
            find_quantizer(self._settings)
        plan = plan_merge(base.gguf_path, self._quantization)
        # The host's copy may be on the same disk, and exists before our file is removed.
        both = plan.model_copy(update={"disk_bytes": plan.disk_bytes + plan.size_bytes})
        check_disk_space(both, folder)

    def make(
        self,
        tag: str,
        form: Form,
        source: FormSource,
        *,
        job: Job,
        work_dir: Path,
        quantization: Quantization,
        on_progress: OnProgress,
        check: Callable[[], None],
    ) -> VersionForm:
        """Make a form below `work_dir`, create the model `tag` from it, and describe it.

        `quantization`, `on_progress` and `check` are used for merged forms only; `check` is called
        several times a second and may raise. Raises what `TrainingRunner.merge` raises,
        ArtefactCorrupt, OllamaRefused, OllamaUnavailable and DiskUnavailable.
        """
        template = chat_format(source.base.chat_format)
        model = ServedModel(
            form=form, system=source.system, template=template.ollama_template, stop=template.stop
        )
        if form != "merged":
            return self._add_adapter(tag, model, source)
        spec = MergeSpec(
            job_id=job.id,
            elder_id=job.elder_id,
            fence=job.fence,
            base_gguf=source.base.gguf_path,
            adapter_gguf=source.adapter,
            adapter_sha256=source.adapter_sha256,
            quantization=quantization,
            quantizer=find_quantizer(self._settings) if quantization == "q4_k_m" else None,
            work_dir=work_dir,
        )
        return self._merge(tag, model, spec, on_progress, check)

    def check_prompt(self, tag: str, source: FormSource) -> None:
        """Raise ChatFormatMismatch unless the host renders the prompt that was trained on.

        The host loads the model for it.
        """
        form = chat_format(source.base.chat_format)
        check_prompt(self._host, tag, form, source.system, num_ctx=self._num_ctx)

    def _add_adapter(self, tag: str, model: ServedModel, source: FormSource) -> VersionForm:
        base = base_name(source.base)
        self._host.ensure_base(base, source.base.gguf_path)
        fields = {"base": base, "file": source.adapter, "sha256": source.adapter_sha256}
        self._host.create(tag, model.model_copy(update=fields))
        size_bytes = source.adapter.stat().st_size
        return self._record(model.form, source.adapter_sha256, size_bytes, None)

    def _merge(
        self,
        tag: str,
        model: ServedModel,
        spec: MergeSpec,
        on_progress: OnProgress,
        check: Callable[[], None],
    ) -> VersionForm:
        _remove_merged(spec.work_dir.parent)
        outcome = self._runner.merge(spec, on_progress, check)
        folder = outcome.path.parent
        try:
            verify_folder(folder, {MERGED_GGUF: outcome.sha256})
            file = {"file": outcome.path, "sha256": outcome.sha256}
            self._host.create(tag, model.model_copy(update=file))
        finally:
            # Our file is as large as the base and not needed: either the host has its own copy, or
            # the merge is repeated.
            shutil.rmtree(folder, ignore_errors=True)
        return self._record("merged", outcome.sha256, outcome.size_bytes, spec.quantization)

    def _record(
        self, form: Form, sha256: str, size_bytes: int, quantization: Quantization | None
    ) -> VersionForm:
        return VersionForm(
            form=form,
            sha256=sha256,
            size_bytes=size_bytes,
            quantization=quantization,
            made_at=self._clock(),
        )


def _remove_merged(job_folder: Path) -> None:
    """Remove the merged files of a job's killed attempts: each is as large as the base."""
    for attempt in job_folder.glob("*"):
        remove_remains(attempt / MERGED_FOLDER)
        shutil.rmtree(attempt / MERGED_FOLDER, ignore_errors=True)


def choose_form(host: ModelHost, settings: HostSettings, description: HostDescription) -> Form:
    """Return the form that the settings name, or the one that the host prefers (`auto`).

    Raises FormUnsupported, quoting the host, if it refuses the form that the settings name.
    """
    if settings.form == "auto":
        return description.forms[0]
    refusal = None if settings.form in description.forms else host.refusal_of(settings.form)
    if refusal is not None:
        raise FormUnsupported(
            f"{description.kind} {description.version} does not serve the form {settings.form} "
            f"({refusal}); set MODELSERVER_HOST__FORM to auto, or to one of: "
            f"{', '.join(description.forms)}"
        )
    return settings.form


def find_quantizer(settings: HostSettings) -> Path:
    """Return the path of llama.cpp's quantizer; raises FormUnsupported if there is none."""
    found = shutil.which(settings.quantizer)
    if found is None:
        raise FormUnsupported(
            f"quantization q4_k_m needs llama.cpp's quantiser, and {settings.quantizer!r} is not "
            "on the PATH; name it in MODELSERVER_HOST__QUANTIZER, or set `quantization: q8_0`"
        )
    return Path(found)


def stored_source(
    version: ModelVersion, base: BaseModelSpec, adapters: Path, dataset: Path
) -> FormSource:
    """Return what a version's form is made from, verified against the version's hashes.

    `adapters` is the folder of its elder's jobs, `dataset` the JSONL it was trained on. Raises
    ArtefactCorrupt if the adapter or the data set is gone or was changed: then the elder must
    be trained again.
    """
    wanted = {
        ADAPTER_WEIGHTS: version.adapter_sha256 or "",
        ADAPTER_GGUF: version.gguf_sha256 or "",
    }
    folder = _stored_adapter(adapters / version.job_id, wanted)
    return FormSource(
        base=base,
        adapter=folder / ADAPTER_GGUF,
        adapter_sha256=wanted[ADAPTER_GGUF],
        system=_system_prompt(dataset, version.dataset_sha256),
    )


def _stored_adapter(job_folder: Path, wanted: dict[str, str]) -> Path:
    """Return the adapter folder of the newest attempt whose files have the wanted hashes."""
    attempts = (p for p in job_folder.glob("*") if p.name.isdecimal())
    for attempt in sorted(attempts, key=lambda p: int(p.name), reverse=True):
        folder = attempt / ADAPTER_FOLDER
        try:
            verify_folder(folder, wanted)
        except ArtefactCorrupt:
            continue
        return folder
    raise ArtefactCorrupt(f"the adapter of job {job_folder.name} is gone or damaged; train again")


def _system_prompt(dataset: Path, sha256: str) -> str:
    check_file(dataset, sha256)
    with dataset.open(encoding="utf-8") as lines:
        system: str = json.loads(next(lines))["messages"][0]["content"]
    return system


def base_name(base: BaseModelSpec) -> str:
    """Return the name under which a host has a base model."""
    return f"heirloom-base-{base.key}"
