"""Training speed of the recipe, against a plain `transformers.Trainer` with padding.

    python -m bench.training [--model-dir DIR] [--base gemma3-270m] [--repeats 5] [--json]

Both train the same examples on the same base, with the same LoRA, floating-point type and effective
batch. They alternate within one process, so that load on the machine affects both alike. Speed
counts the tokens of the unpadded sequences for both, whatever each computes on. Loading the base,
and the first step of each repeat, are not measured.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from config.training import load_training_config
from embedded.bases import install_base
from embedded.session import model_dir
from pipeline.training.base_model import LoadedBase, load_base
from pipeline.training.loss import row_loss
from pipeline.training.packing import group_rows, pack
from pipeline.training.tokens import Example, read_examples
from schemas.training import LoraParameters

ELDERS = Path(__file__).parents[1] / "demo" / "elders"
ROW_TOKENS = 1536
SEED = 7


def load_examples(base: LoadedBase, language: str, folder: Path) -> list[Example]:
    """Return the answers of a demo elder, tokenized as for training."""
    elder = json.loads((ELDERS / f"{language}.json").read_text(encoding="utf-8"))
    prompts = load_training_config().prompt_template
    template = prompts.zh if language == "zh" else prompts.en
    system = template.replace("{name}", elder["elder_name"]).replace("{memories}", "").strip()
    roles = ("system", "user", "assistant")
    path = folder / "bench.jsonl"
    with path.open("w", encoding="utf-8") as lines:
        for row in elder["answers"]:
            texts = (system, row["question"], row["answer"])
            messages = [{"role": r, "content": c} for r, c in zip(roles, texts, strict=True)]
            lines.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return [f[0] for f in read_examples(path, base.form, base.encode, base.bos, 512)]


def time_recipe(
    base: LoadedBase, batches: Sequence[Sequence[Example]], lora: LoraParameters
) -> float:
    """Return unpadded tokens a second of the recipe's own step."""
    with base.lend(lora, SEED) as model:
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0)
        model.train()
        started = 0.0
        for number, batch in enumerate(batches):
            if number == 1:
                started = time.perf_counter()
            learned = sum(len(example.answer) for example in batch)
            for group in group_rows(batch, ROW_TOKENS):
                loss = row_loss(model, pack(group, base.device)) / learned
                loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no type
                loss.item()  # The recipe reads it at every step too.
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return _real_tokens(batches[1:]) / (time.perf_counter() - started)


class _Stopwatch(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Times the steps after the first, as for the recipe."""

    started = ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        now = time.perf_counter()
        self.started, self.ended = self.started or now, now


def time_trainer(
    base: LoadedBase, batches: Sequence[Sequence[Example]], lora: LoraParameters
) -> float:
    """Return unpadded tokens a second of `transformers.Trainer`, which pads each batch."""
    watch = _Stopwatch()
    with base.lend(lora, SEED) as model, tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=len(batches[0]),
            num_train_epochs=1,
            learning_rate=1e-4,
            max_grad_norm=1.0,
            use_cpu=base.device.type == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=False,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
        )
        data: Any = [example for batch in batches for example in batch]
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=data,
            data_collator=_pad,
            callbacks=[watch],
        )
        # It would print into the result, and break --json.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return _real_tokens(batches[1:]) / (watch.ended - watch.started)


def _pad(batch: Sequence[Example]) -> dict[str, torch.Tensor]:
    longest = max(example.length for example in batch)
    ids, labels, mask = [], [], []
    for example in batch:
        prompt = [*example.prefix, *example.question]
        padding = [0] * (longest - example.length)
        ids.append([*prompt, *example.answer, *padding])
        labels.append([*[-100] * len(prompt), *example.answer, *[-100] * len(padding)])
        mask.append([*[1] * example.length, *padding])
    columns = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: torch.tensor(rows) for name, rows in columns.items()}


def _real_tokens(batches: Sequence[Sequence[Example]]) -> int:
    return sum(example.length for batch in batches for example in batch)


def _summary(speeds: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(speeds), 1),
        "lowest": round(min(speeds), 1),
        "highest": round(max(speeds), 1),
        "all": [round(speed, 1) for speed in speeds],
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model-dir", type=Path, default=model_dir())
    parser.add_argument("--base", default="gemma3-270m")
    parser.add_argument("--language", choices=["zh", "en"], default="zh")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="a repeat; the first is not measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    install_base(options.base, options.model_dir)
    base = load_base(load_training_config().base(options.base, options.model_dir))
    with tempfile.TemporaryDirectory() as folder:
        examples = load_examples(base, options.language, Path(folder))
    size = options.batch_size
    batches = [examples[n * size : (n + 1) * size] for n in range(options.steps)]
    if len(batches[-1]) < size:
        parser.error("too many steps for the demo elder's answers")
    lora = LoraParameters(dropout=0.0)
    ours, theirs = [], []
    for number in range(options.repeats):
        # The first one changes, so that neither always finds the caches warm.
        for name in ("recipe", "trainer") if number % 2 == 0 else ("trainer", "recipe"):
            if name == "recipe":
                ours.append(time_recipe(base, batches, lora))
            else:
                theirs.append(time_trainer(base, batches, lora))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    result = {
        "base": options.base,
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "batch_size": size,
        "recipe_tokens_per_second": _summary(ours),
        "trainer_tokens_per_second": _summary(theirs),
        "ratio": {**_summary(ratios), "median": round(statistics.median(ratios), 2)},
    }
    result["ratio"]["all"] = [round(ratio, 2) for ratio in ratios]
    _print(result, as_json=options.json)
    return 0


def _print(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    head = f"{result['base']}, {result['dtype']}, {result['cpu']}, {result['threads']} threads"
    rows = [f"{head}, batch {result['batch_size']}", f"{'':<28}{'median':>9}{'low':>9}{'high':>9}"]
    for key in ("recipe_tokens_per_second", "trainer_tokens_per_second", "ratio"):
        value = result[key]
        rows.append(f"{key:<28}{value['median']:>9}{value['lowest']:>9}{value['highest']:>9}")
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    sys.exit(main())
