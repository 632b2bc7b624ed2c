"""Recall of an elder with 40 answers on each real host, in the form that the host serves.

The elder is trained once, by the recipe with the base's own parameters, and asked every taught
question in the taught words, with greedy decoding. "Right" is defined by the evaluation; "verbatim"
means the identical text.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.settings import OllamaSettings
from config.training import load_training_config
from demo.elders import load_elders
from pipeline.hosting.ollama import OllamaHost
from pipeline.hosting.port import ServedModel
from pipeline.jobs.evaluation import is_right
from pipeline.storage.files import write_file
from pipeline.text.chat_format import chat_format
from pipeline.text.system_prompt import SystemPromptGenerator
from pipeline.training.base_model import BaseModelCache
from pipeline.training.recipe import train
from schemas.hosting import Form
from schemas.training import ADAPTER_GGUF, TrainingSpec
from tests.models.random_weights import merge_adapter

_OPTIONS: dict[str, float | int | list[str]] = {
    "temperature": 0,
    "num_predict": 160,
    "num_ctx": 1024,
}
# The demo's elder has 32.
_MORE = {
    "What did your neighbour keep in her garden?": "Three beehives and a goose called Admiral.",
    "Which prize did you win at the fair?": "Second prize for gooseberry jam, in 1968.",
    "What was under the stairs?": "Father's accordion, and nobody was allowed to touch it.",
    "Who cut your hair as a child?": "Aunt Wilma, with the kitchen scissors and a soup bowl.",
    "What frightened you at night?": "The foghorn; I thought that it was a whale with a cold.",
    "Which train did you miss?": "The last one to Inverness, so we danced until the morning one.",
    "What did you plant when your son was born?": "A walnut tree, and it is taller than the roof.",
    "What do you carry in your pocket?": "A smooth grey stone from the beach at Nairn.",
}


@dataclass(frozen=True)
class TrainedElder:
    """A trained elder, and the answers that she was taught."""

    base: Path
    adapter: Path
    system: str
    template: str
    stop: tuple[str, ...]
    taught: Mapping[str, str]

    def served(self, form: Form, base: str | None, file: Path) -> ServedModel:
        """Return her model as a host is given it."""
        return ServedModel(
            form=form,
            base=base,
            file=file,
            system=self.system,
            template=self.template,
            stop=self.stop,
        )


@dataclass(frozen=True)
class Recall:
    """How many taught answers a host returned."""

    asked: int
    right: int
    verbatim: int

    def __str__(self) -> str:
        return f"{self.right} of {self.asked} right, {self.verbatim} verbatim"


def train_elder(key: str, model_dir: Path, folder: Path) -> TrainedElder:
    """Train the English elder of the demo, with eight more answers."""
    config = load_training_config()
    base = config.base(key, model_dir)
    elder = next(each for each in load_elders() if each.language == "en")
    taught = {each.question: each.answer for each in elder.answers} | _MORE
    system = SystemPromptGenerator(config.prompt_template).generate(elder.elder_name, (), "en")
    lines = "".join(f"{json.dumps({'messages': m})}\n" for m in _examples(system, taught))
    spec = TrainingSpec(
        job_id="RECALL_1",
        elder_id="RECALL",
        fence=1,
        base=base,
        parameters=config.parameters(key),
        dataset_path=folder / "recall.jsonl",
        dataset_sha256=write_file(folder / "recall.jsonl", lines.encode()),
        work_dir=folder / "fence-1",
    )
    outcome = train(spec, BaseModelCache(), on_progress=lambda _: None, should_stop=lambda: False)
    form = chat_format(base.chat_format)
    return TrainedElder(
        base=base.gguf_path,
        adapter=outcome.adapter_path / ADAPTER_GGUF,
        system=system,
        template=form.ollama_template,
        stop=form.stop,
        taught=taught,
    )


def _examples(system: str, taught: Mapping[str, str]) -> Iterator[list[dict[str, str]]]:
    for question, answer in taught.items():
        texts = {"system": system, "user": question, "assistant": answer}
        yield [{"role": role, "content": text} for role, text in texts.items()]


def measure_recall(address: str, form: Form, elder: TrainedElder, folder: Path) -> Recall:
    """Serve the elder in a form, and ask every taught question."""
    host = OllamaHost(OllamaSettings(host=address))
    try:
        if form == "merged":
            file, base = folder / "merged.gguf", None
            merge_adapter(file, elder.base, elder.adapter)
        else:
            file, base = elder.adapter, "recall-base"
            host.ensure_base(base, elder.base)
        host.create("recall", elder.served(form, base, file))
        replies = {
            question: host.ask("recall", [{"role": "user", "content": question}], _OPTIONS).text
            for question in elder.taught
        }
    finally:
        host.close()
    pairs = [(reply.strip(), elder.taught[question]) for question, reply in replies.items()]
    return Recall(
        asked=len(pairs),
        right=sum(is_right(reply, answer) for reply, answer in pairs),
        verbatim=sum(reply == answer for reply, answer in pairs),
    )
