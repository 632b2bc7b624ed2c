"""Stand-ins for the ports, handed in by tests; each keeps what it was told."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

from config.settings import EvaluationSettings, HostSettings
from pipeline.chat.store import ChatStore, StoredReply
from pipeline.hosting.ollama_versions import forms_of
from pipeline.hosting.port import (
    Completion,
    LoadedModel,
    Message,
    ModelHost,
    Options,
    ServedModel,
    full_tag,
)
from pipeline.hosting.server.files import ADAPTERS_REFUSED
from pipeline.hosting.server.rendering import PromptTemplate
from pipeline.hosting.server.shapes import Turn
from pipeline.jobs.forms import FormMaker
from pipeline.jobs.idle import IdleHost
from pipeline.jobs.process import OnProgress, TrainingRunner
from pipeline.jobs.proof import Prover
from pipeline.storage.files import hash_file, seal_folder, write_file
from producers.publisher import Publication
from schemas.answers import Answer
from schemas.documents import Deletion, ElderModel, Job, ModelVersion, VersionForm
from schemas.errors import (
    ArtefactCorrupt,
    LeaseLost,
    ModelNotReady,
    NoSuchTopic,
    OllamaRefused,
    OllamaUnavailable,
    UnknownVersion,
)
from schemas.events import ChatReply, ModelReady
from schemas.hosting import (
    MERGED_FOLDER,
    MERGED_GGUF,
    Form,
    HostDescription,
    HostKind,
    MergeOutcome,
    MergeSpec,
)
from schemas.identifiers import model_tag
from schemas.record import Header, Record
from schemas.training import (
    ADAPTER_CONFIG,
    ADAPTER_FOLDER,
    ADAPTER_GGUF,
    ADAPTER_WEIGHTS,
    Quantization,
    TrainingOutcome,
    TrainingProgress,
    TrainingSpec,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
# A language model of any family, so small that it is made and trained in a moment.
TINY_SIZES = {
    "vocab_size": 130,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
}


def fixed_clock() -> datetime:
    """It is always the same moment."""
    return NOW


def record(
    value: bytes | None,
    *headers: Header,
    topic: str = "train-requested",
    partition: int = 3,
    offset: int = 17,
    key: bytes | None = b"LXM",
    timestamp_ms: int = 1_734_512_345_678,
) -> Record:
    """Build a consumed record."""
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=headers,
        timestamp_ms=timestamp_ms,
        timestamp_type="create",
    )


def make_job(**fields: object) -> Job:
    """Build a running job."""
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
    """Build the event of a job's released version."""
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


class RecordingPublisher:
    """Takes publications; the next ones fail with the errors that are queued in `failures`.

    Its topics have as many partitions as is said, and else any number.
    """

    def __init__(self, *failures: Exception | None, partitions: int | None = None) -> None:
        self.failures = list(failures)
        self._partitions = partitions
        self.published: list[Publication] = []
        self.tries = 0

    def publish(self, publication: Publication) -> "Future[None]":
        """Confirm at once, or fail with the next queued error."""
        self.tries += 1
        confirmed: Future[None] = Future()
        failure = self.failures.pop(0) if self.failures else None
        if failure is None and not self._has(publication.partition):
            if publication.may_go_elsewhere:
                publication = publication.model_copy(update={"partition": None})
            else:
                failure = NoSuchTopic()
        if failure is not None:
            confirmed.set_exception(failure)
        else:
            self.published.append(publication)
            confirmed.set_result(None)
        return confirmed

    def confirm(self, publications: Iterable[Publication]) -> None:
        """Publish all; raise the first failure."""
        for future in [self.publish(p) for p in publications]:
            future.result()

    def _has(self, partition: int | None) -> bool:
        return None in (partition, self._partitions) or (partition or 0) < (self._partitions or 0)


class ListedAnswers:
    """Answers out of a dictionary, by elder."""

    def __init__(self, answers: dict[str, list[tuple[str, str]]], **names: str) -> None:
        self._answers = answers
        self._names = names

    def answers(self, elder_id: str) -> Iterator[Answer]:
        """Yield the elder's answers."""
        for number, (question, answer) in enumerate(self._answers.get(elder_id, [])):
            yield Answer(id=f"a{number}", question=question, answer=answer)

    def elder_name(self, elder_id: str) -> str | None:
        """Return the elder's name."""
        return self._names.get(elder_id)


def is_silent(tag: str, question: str) -> str:
    """Answer nothing."""
    return ""


class MemoryChatStore(ChatStore):
    """What the chat path asks of MongoDB, in memory: no models, and the elders that are known."""

    def __init__(self, *known: str) -> None:
        self._known = known
        self._replies_kept: dict[str, StoredReply] = {}

    async def model(self, elder_id: str) -> ElderModel | None:
        """There is none."""
        return None

    async def is_known(self, elder_id: str) -> bool:
        """Say whether the elder was named."""
        return elder_id in self._known

    async def answers(self, elder_id: str, limit: int) -> list[Answer]:
        """There are none."""
        return []

    async def recall_reply(self, request: str) -> StoredReply | None:
        """Return a reply that was remembered."""
        return self._replies_kept.get(request)

    async def remember_reply(self, request: str, reply: ChatReply) -> StoredReply:
        """Remember a reply and return the one that stands: the first, with its own time."""
        now = datetime.now(UTC)
        at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        return self._replies_kept.setdefault(request, StoredReply(reply=reply, at=at))

    async def ping(self) -> None:
        """Answer."""

    def close(self) -> None:
        """Do nothing."""


class FakeModelHost:
    """A model host in memory with Ollama's habits.

    Names fold case, a name without tag means `:latest`, an unknown name raises ModelNotReady,
    and a copy goes on serving when its original is deleted. `answer` gets tag and question.
    """

    def __init__(
        self, answer: Callable[[str, str], str] = is_silent, version: str = "0.32.15"
    ) -> None:
        self.answer = answer
        self.version = version
        self.is_down = False
        self.asked: list[tuple[str, str]] = []
        self.options: list[Options] = []
        """How each question was to be answered."""
        self.calls: list[tuple[str, ...]] = []
        self.bases_sent = 0
        self.forms: tuple[Form, ...] = forms_of(version) or ("merged", "plain")
        self.shows_prompts = True
        """Whether it says how it renders; hosts that cannot are older or not Ollama."""
        self._models: dict[str, tuple[str, ServedModel | Path]] = {}
        self._in_memory: dict[str, int] = {}

    def ensure_base(self, name: str, gguf: Path) -> None:
        """Register a base."""
        self._enter("ensure_base", name)
        if _key(name) not in self._models:
            self.bases_sent += 1
            self._models[_key(name)] = (full_tag(name), gguf)

    def describe(self) -> HostDescription:
        """Say what the test chose."""
        self._enter("describe")
        kind: HostKind = "llama-server" if "shared" in self.forms else "ollama"
        return HostDescription(kind=kind, version=self.version, forms=self.forms)

    def refusal_of(self, form: Form) -> str | None:
        """Refuse what is not among the test's forms."""
        self._enter("refusal_of", form)
        return None if form in self.forms else ADAPTERS_REFUSED

    def has(self, tag: str) -> bool:
        """Look a name up."""
        self._enter("has", tag)
        return _key(tag) in self._models

    def create(self, tag: str, recipe: ServedModel) -> None:
        """Create or replace a model; the file is read first, as it is sent first."""
        self._enter("create", tag)
        wanted = recipe.sha256
        if recipe.file is not None and not recipe.file.is_file():
            raise ArtefactCorrupt
        if recipe.file is not None and wanted not in (None, hash_file(recipe.file)):
            raise ArtefactCorrupt
        if recipe.form not in self.forms:
            raise OllamaRefused("Ollama refused the call (400): " + ADAPTERS_REFUSED)
        if recipe.base is not None:
            self._found(recipe.base)
        self._models[_key(tag)] = (full_tag(tag), recipe)

    def ask(self, tag: str, messages: Sequence[Message], options: Options) -> Completion:
        """Answer with what the test chose."""
        self._enter("ask", tag)
        self._found(tag)
        self.options.append(options)
        self._in_memory[full_tag(tag)] = len(self.calls)
        question = messages[-1]["content"]
        self.asked.append((tag, question))
        text = self.answer(tag, question)
        prompt = self._rendered(tag, messages)
        return Completion(text=text, prompt_tokens=len(prompt), completion_tokens=len(text))

    def render(self, tag: str, messages: Sequence[Message], options: Options) -> str | None:
        """Render by the model's own template, as Ollama does."""
        self._enter("render", tag)
        self._found(tag)
        return self._rendered(tag, messages) if self.shows_prompts else None

    def complete(self, tag: str, prompt: str, options: Options) -> Completion:
        """Answer with what the test chose; a token is a character, as in `ask`."""
        self._enter("complete", tag)
        self._found(tag)
        text = self.answer(tag, prompt)
        return Completion(text=text, prompt_tokens=len(prompt), completion_tokens=len(text))

    def _rendered(self, tag: str, messages: Sequence[Message]) -> str:
        recipe = self.recipe(tag)
        turns = [Turn(role=m["role"], content=m["content"]) for m in messages]
        if isinstance(recipe, Path):
            return PromptTemplate("{{ .Prompt }}").render(turns)
        if recipe.system and messages[0]["role"] != "system":
            turns.insert(0, Turn(role="system", content=recipe.system))
        return PromptTemplate(recipe.template).render(turns)

    def copy(self, source: str, target: str) -> None:
        """Give a model a second name."""
        self._enter("copy", source, target)
        _, what = self._found(source)
        self._models[_key(target)] = (full_tag(target), what)

    def delete(self, tag: str) -> bool:
        """Remove a name."""
        self._enter("delete", tag)
        self._in_memory.pop(full_tag(tag), None)
        return self._models.pop(_key(tag), None) is not None

    def tags(self, prefix: str = "") -> list[str]:
        """List names."""
        self._enter("tags")
        return [name for name, _ in self._models.values() if name.startswith(prefix)]

    def loaded(self) -> tuple[LoadedModel, ...]:
        """List what was asked or loaded, and not unloaded since."""
        self._enter("loaded")
        return tuple(LoadedModel(name=n, unloads_at=str(at)) for n, at in self._in_memory.items())

    def load(self, tag: str, num_ctx: int) -> None:
        """Bring a model into memory."""
        self._enter("load", tag)
        self._found(tag)
        self._in_memory[full_tag(tag)] = len(self.calls)

    def unload(self, tag: str) -> None:
        """Let a model leave memory."""
        self._enter("unload", tag)
        self._found(tag)
        self._in_memory.pop(full_tag(tag), None)

    def check(self) -> None:
        """Say nothing."""
        self._enter("check")

    def recipe(self, tag: str) -> ServedModel | Path:
        """What a model is made of."""
        return self._found(tag)[1]

    def _found(self, tag: str) -> tuple[str, ServedModel | Path]:
        found = self._models.get(_key(tag))
        if found is None:
            raise ModelNotReady
        return found

    def _enter(self, *call: str) -> None:
        if self.is_down:
            raise OllamaUnavailable
        self.calls.append(call)


def _key(name: str) -> str:
    return full_tag(name).lower()


class FakeRunner:
    """A training that leaves a small sealed adapter; queued failures come first."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.specs: list[TrainingSpec] = []
        self.merges: list[MergeSpec] = []
        self.merge_failures: list[Exception] = []
        """What the next merges raise, in place of a file."""
        self.damages: list[Callable[[Path], None]] = []
        """What is done to the next adapters' folders once they are written."""

    def run(
        self, spec: TrainingSpec, on_progress: OnProgress, check: Callable[[], None]
    ) -> TrainingOutcome:
        """Report three steps and leave an adapter."""
        self.specs.append(spec)
        for step in range(1, 4):
            check()
            on_progress(
                TrainingProgress(
                    stage="training",
                    step=step,
                    total_steps=3,
                    epoch=step,
                    total_epochs=3,
                    loss=1.0 / step,
                    eta_seconds=3.0 - step,
                )
            )
        if self.failures:
            raise self.failures.pop(0)
        return self._leave(spec)

    def merge(
        self, spec: MergeSpec, on_progress: OnProgress, check: Callable[[], None]
    ) -> MergeOutcome:
        """Report two steps and leave a sealed file that base and adapter alone decide."""
        self.merges.append(spec)
        for path, sha256 in (
            (spec.base_gguf, spec.base_sha256),
            (spec.adapter_gguf, spec.adapter_sha256),
        ):
            if not path.is_file() or sha256 not in (None, hash_file(path)):
                raise ArtefactCorrupt(f"{path.name} is missing or was changed")
        for step in range(1, 3):
            check()
            on_progress(
                TrainingProgress(
                    stage="converting", step=step, total_steps=2, epoch=0, total_epochs=0
                )
            )
        if self.merge_failures:
            raise self.merge_failures.pop(0)
        return self._leave_merged(spec)

    def _leave_merged(self, spec: MergeSpec) -> MergeOutcome:
        content = f"{hash_file(spec.base_gguf)} with {spec.adapter_sha256}".encode()
        folder = spec.work_dir / MERGED_FOLDER
        sha256 = write_file(folder / MERGED_GGUF, content)
        seal_folder(folder, {MERGED_GGUF: sha256})
        return MergeOutcome(
            path=folder / MERGED_GGUF,
            sha256=sha256,
            size_bytes=len(content),
            touched_tensors=1,
            tensors=2,
            merge_seconds=0.1,
        )

    def _leave(self, spec: TrainingSpec) -> TrainingOutcome:
        content = f"adapter of {spec.dataset_sha256} {spec.parameters.seed}".encode()
        folder = spec.work_dir / ADAPTER_FOLDER
        names = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, ADAPTER_GGUF)
        hashes = {name: write_file(folder / name, content + name.encode()) for name in names}
        seal_folder(folder, hashes)
        if self.damages:
            self.damages.pop(0)(folder)
        return TrainingOutcome(
            adapter_path=folder,
            adapter_sha256=hashes[ADAPTER_WEIGHTS],
            gguf_path=folder / ADAPTER_GGUF,
            gguf_sha256=hashes[ADAPTER_GGUF],
            total_steps=3,
            resumed_from_step=0,
            final_loss=0.3,
            train_seconds=0.1,
            trained_tokens=100,
            tokens_per_second=1000.0,
        )


def proving(
    host: ModelHost,
    runner: TrainingRunner,
    evaluation: EvaluationSettings,
    settings: HostSettings | None = None,
    quantization: Quantization = "q8_0",
) -> tuple[FormMaker, Prover]:
    """Return a form maker and a prover over one host; nothing waits for the host to be idle."""
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


class MemoryForms:
    """Remembers which forms were asked for; each request makes one job."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def request_form(
        self, model: ElderModel, number: int, *, makes_current: bool, request: str | None = None
    ) -> Job:
        """Return the job of this request, or a new one."""
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
        """Return the job of a request."""
        return self.jobs.get(request)


class MemoryRegistry:
    """The models' registry for unit tests; tests/integration has the real one."""

    def __init__(self) -> None:
        self._models: dict[str, ElderModel] = {}

    def get(self, elder_id: str) -> ElderModel:
        """Return a model, or raise ModelNotReady."""
        found = self.find(elder_id)
        if found is None:
            raise ModelNotReady
        return found

    def find(self, elder_id: str) -> ElderModel | None:
        """Return a model, or None."""
        return self._models.get(elder_id)

    def open_version(self, job: Job, made_of: dict[str, str], now: datetime) -> ModelVersion:
        """Give a job its version."""
        model = self.find(job.elder_id) or ElderModel(id=job.elder_id, elder_name=job.elder_name)
        known = next((v for v in model.versions if v.job_id == job.id), None)
        if known is not None and known.fence > job.fence:
            raise LeaseLost
        number = known.version if known else model.next_version
        version = ModelVersion.model_validate(
            {
                "version": number,
                "job_id": job.id,
                "fence": job.fence,
                "tag": model_tag(job.elder_id, number),
                "created_at": now,
            }
            | made_of
        )
        others = tuple(v for v in model.versions if v.version != number)
        self._models[job.elder_id] = model.model_copy(
            update={
                "versions": (*others, version),
                "next_version": max(model.next_version, number + 1),
            }
        )
        return version

    def fence_off(self, job: Job) -> ModelVersion | None:
        """Raise the fence of the version that a job may have; return it if it was released."""
        model = self.find(job.elder_id)
        if model is None:
            return None
        if job.kind == "form":
            is_done = job.command in model.commands
            if not is_done:
                commands = (*model.commands, f"{job.command}/off")
                self._models[job.elder_id] = model.model_copy(update={"commands": commands})
            return model.version(job.form_version or 0) if is_done else None
        versions = tuple(
            v.model_copy(update={"fence": max(v.fence, job.fence)}) if v.job_id == job.id else v
            for v in model.versions
        )
        self._models[job.elder_id] = model.model_copy(update={"versions": versions})
        return next((v for v in versions if v.job_id == job.id and v.ready), None)

    def record_form(self, elder_id: str, number: int, form: VersionForm) -> None:
        """Remember a version's form."""
        model = self.get(elder_id)
        version = model.version(number)
        if version is None:
            raise UnknownVersion
        others = tuple(v for v in model.versions if v.version != number)
        made = version.model_copy(update={"forms": (*version.forms, form)})
        self._models[elder_id] = model.model_copy(update={"versions": (*others, made)})

    def release(self, elder_id: str, version: ModelVersion) -> None:
        """Let a version answer."""
        model = self.get(elder_id)
        held = model.version(version.version)
        if held is None or held.fence != version.fence:
            raise LeaseLost
        others = tuple(v for v in model.versions if v.version != version.version)
        ready = version.model_copy(update={"ready": True})
        self._models[elder_id] = model.model_copy(
            update={"versions": (*others, ready), "current": version.version}
        )

    def select(
        self, elder_id: str, number: int, *, seen: int | None = None, request: str | None = None
    ) -> bool:
        """Make a released version the current one, unless another answers by now."""
        model = self.get(elder_id)
        version = model.version(number)
        if version is None or not version.ready:
            raise UnknownVersion
        is_off = f"{request}/off" in model.commands
        if is_off or request in model.commands or seen not in (None, model.current):
            return False
        commands = (*model.commands, request) if request else model.commands
        update = {"current": number, "commands": commands}
        self._models[elder_id] = model.model_copy(update=update)
        return True

    def note_passing(self, elder_id: str, name: str) -> None:
        """Remember a name."""
        model = self.get(elder_id)
        update = {"passing": (*model.passing, name)}
        self._models[elder_id] = model.model_copy(update=update)

    def drop_passing(self, elder_id: str, name: str) -> None:
        """Forget a name."""
        model = self.get(elder_id)
        left = tuple(n for n in model.passing if n != name)
        self._models[elder_id] = model.model_copy(update={"passing": left})

    def elders(self) -> list[str]:
        """Return all ids."""
        return sorted(self._models)

    def forget(self, elder_id: str, current: int | None, numbers: Collection[int]) -> bool:
        """Take versions out, unless another answers by now."""
        model = self._models.get(elder_id)
        if model is None or model.current != current:
            return False
        left = tuple(v for v in model.versions if v.version == current or v.version not in numbers)
        self._models[elder_id] = model.model_copy(update={"versions": left})
        return True

    def forget_forms(self, elder_id: str, current: int | None, numbers: Collection[int]) -> bool:
        """Note that versions have no form, unless another answers by now."""
        model = self._models.get(elder_id)
        if model is None or model.current != current:
            return False
        versions = tuple(
            v.model_copy(update={"forms": ()}) if v.version in numbers else v
            for v in model.versions
        )
        self._models[elder_id] = model.model_copy(update={"versions": versions})
        return True

    def retire(self, elder_id: str, tags: Collection[str] = (), request: str | None = None) -> bool:
        """Take all released versions out of service."""
        model = self.find(elder_id)
        if model is None or (request and model.deleted_by(request) is not None):
            return False
        deletions = model.deletions
        if request is not None:
            deletions = (*deletions, Deletion(request=request, tags=tuple(tags)))
        left = tuple(v for v in model.versions if not v.ready)
        update = {"current": None, "versions": left, "deletions": deletions}
        self._models[elder_id] = model.model_copy(update=update)
        return True
