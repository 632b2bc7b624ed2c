"""The demo on a terminal: terms, live bars, a table, or one JSON object for machines."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from config.logs import configure_logs
from config.settings import LogSettings, Settings, load_settings
from consumers.app import App
from consumers.operations.signals import stop_on_signals
from demo.elders import Elder, load_elders
from demo.story import Asked, ask_all, store_answers, train_all
from embedded.session import StackSession, model_dir, running_service
from pipeline.jobs.conversion_process import convert_base
from pipeline.weights.base_folder import CONFIG, weights_folder
from schemas.documents import ModelVersion
from schemas.topics import DATASET_READY, MODEL_READY
from terminal.output import notes, print_json, results
from terminal.progress import describe_progress
from terminal.wiring import open_sender

RECALL_WANTED = 0.95
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(bar_width=28),
    TextColumn("{task.percentage:>3.0f} %"),
    TimeElapsedColumn(),
    TextColumn("[dim]{task.fields[detail]}[/]"),
)


class Timer:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begun, 1)

    def total(self) -> dict[str, float]:
        """Return the seconds of each phase and of the whole."""
        return self.seconds | {"total": round(time.monotonic() - self._begun, 1)}


def run_demo(*, base: str, json: bool, keep: bool) -> int:
    """Run the demo and return its exit code: 0 if the taught facts came back, else 1."""
    timer, elders = Timer(), load_elders()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals(raise_interrupt=True))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heirloom-demo-")))
        with timer.phase("setup"):
            _show_terms(base)
            session = stack.enter_context(StackSession(folder, base, _say))
            settings = _prepare(session, base)
            _say("Starting ModelServer")
            log_path = folder / "logs" / "modelserver.log"
            stack.enter_context(running_service(session.environment(), log_path))
            _say("ModelServer is ready")
        app = App(settings)
        stack.callback(app.close)
        sender = stack.enter_context(open_sender(app))
        store_answers(settings, elders)
        with timer.phase("train"):
            ready, progress = _train(app, settings, sender, elders)
        with timer.phase("chat"):
            asked = _chat(settings, sender, elders)
        report: dict[str, Any] = {
            "elders": [
                _summary(e, ready[e.elder_id], progress, asked)
                | describe_form(app.manager.get_model(e.elder_id).serving)
                for e in elders
            ],
            "seconds": timer.total(),
        }
        _show(report, asked, json)
        if keep:
            _keep(session, json)
            stop.wait()
    return 0 if all(_passed(elder) for elder in report["elders"]) else 1


def _say(step: str) -> None:
    notes.print(f"  {escape(step)}", style="dim")


def _show_terms(base: str) -> None:
    spec = Settings().training().base(base, model_dir())
    notes.print(f"Base model: [bold]{spec.name}[/]. {spec.description}")
    if spec.terms:
        notes.print(f"By going on you accept the [bold]{spec.terms}[/]: {spec.terms_url}")


def _prepare(session: StackSession, base: str) -> Settings:
    """Load the stack's settings, and convert the base model the first time."""
    os.environ.update(session.environment())
    settings = load_settings()
    configure_logs(LogSettings(level="warning", format="console", file=False))
    spec = settings.base(settings.training(), base)
    weights = weights_folder(spec)
    if not (weights / CONFIG).is_file():
        _say("Converting the base model for training (once; about a minute)")
        convert_base(spec.gguf_path, weights)
    return settings


def _train(
    app: App, settings: Settings, sender: Any, elders: Sequence[Elder]
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Train with a live bar for each elder; return each `model-ready` and its seconds."""
    begun: dict[str, float] = {}
    seconds: dict[str, float] = {}
    with Progress(*_COLUMNS, console=notes) as bars:
        tasks: dict[str, TaskID] = {
            e.elder_id: bars.add_task(f"{e.elder_name}  waiting", total=100, detail="")
            for e in elders
        }
        names = {e.elder_id: e.elder_name for e in elders}

        def on_event(topic: str, data: dict[str, Any]) -> None:
            elder_id, task = data["elder_id"], tasks[data["elder_id"]]
            name = names[elder_id]
            if topic == DATASET_READY.name:
                skipped = sum(data["skipped"].values())
                detail = f"{data['examples']} examples, {skipped} skipped"
                bars.update(task, description=f"{name}  data set", detail=detail)
            elif topic == MODEL_READY.name:
                seconds[elder_id] = round(time.monotonic() - begun.get(elder_id, 0), 1)
                bars.update(task, completed=100, description=f"{name}  ready", detail=data["tag"])
            elif elder_id not in seconds:  # the last progress may come after `model-ready`
                if data["status"] == "running":
                    begun.setdefault(elder_id, time.monotonic())
                stage = data["stage"] or data["status"]
                bars.update(
                    task,
                    completed=data["progress"],
                    description=f"{name}  {stage}",
                    detail=describe_progress(data),
                )

        return train_all(settings, sender, elders, on_event), seconds


def _chat(settings: Settings, sender: Any, elders: Sequence[Elder]) -> list[Asked]:
    total = sum(len(e.questions) for e in elders)
    with Progress(*_COLUMNS, console=notes) as bars:
        task = bars.add_task("Asking", total=total, detail="")
        right = 0

        def on_asked(asked: Asked) -> None:
            nonlocal right
            right += asked.right
            bars.update(task, advance=1, detail=f"{right} right")

        return ask_all(settings, sender, elders, on_asked)


def _summary(
    elder: Elder, ready: dict[str, Any], seconds: dict[str, float], asked: Sequence[Asked]
) -> dict[str, Any]:
    def count(kind: str) -> tuple[int, int]:
        own = [a for a in asked if a.elder_id == elder.elder_id and a.question.kind == kind]
        return len(own), sum(a.right for a in own)

    recall, paraphrase, leaks = count("recall"), count("paraphrase"), count("leak")
    return {
        "elder_id": elder.elder_id,
        "job_id": ready["job_id"],
        "model": ready["model"],
        "tag": ready["tag"],
        "examples": len(elder.answers),
        "train_seconds": seconds[elder.elder_id],
        "recall": {"asked": recall[0], "right": recall[1]},
        "paraphrase": {"asked": paraphrase[0], "right": paraphrase[1]},
        "leaks": {"asked": leaks[0], "leaked": leaks[0] - leaks[1]},
    }


def describe_form(version: ModelVersion | None) -> dict[str, Any]:
    """Return the form in which a version is served, and the size of its file in bytes."""
    if version is None:
        return {"form": None, "form_bytes": 0}
    newest = version.forms[-1] if version.forms else None
    return {"form": version.form, "form_bytes": newest.size_bytes if newest else 0}


def _passed(elder: dict[str, Any]) -> bool:
    """Say whether enough taught facts came back, and no facts of the other elder."""
    recall: dict[str, int] = elder["recall"]
    return recall["right"] >= RECALL_WANTED * recall["asked"] and not elder["leaks"]["leaked"]


def _show(report: dict[str, Any], asked: Sequence[Asked], json: bool) -> None:
    if json:
        print_json(report)
        return
    table = Table(title="What was taught, and what came back", title_justify="left")
    for column in ("elder", "asked", "question", "taught", "came back", ""):
        table.add_column(column, overflow="fold")
    kinds = {"recall": "as taught", "paraphrase": "reworded", "leak": "another's"}
    for a in asked:
        mark = "[green]✓[/]" if a.right else "[red]✗[/]"
        question = a.question
        table.add_row(
            a.elder_id,
            kinds[question.kind],
            escape(question.text),
            escape(question.taught) or "[dim](not hers to tell)[/]",
            escape(a.reply),
            mark,
        )
    results.print(table)
    for elder in report["elders"]:
        recall, other, leaks = elder["recall"], elder["paraphrase"], elder["leaks"]
        results.print(
            f"{elder['tag']}: as taught {recall['right']}/{recall['asked']}, reworded "
            f"{other['right']}/{other['asked']}, another's facts told {leaks['leaked']}/"
            f"{leaks['asked']}, trained in {elder['train_seconds']} s"
        )
        size_mb = elder["form_bytes"] / 1e6
        results.print(f"  served in the form [bold]{elder['form']}[/], a file of {size_mb:.0f} MB")
    results.print(f"Seconds: {report['seconds']}")


def _keep(session: StackSession, json: bool) -> None:
    notes.print("Everything stays up. In another terminal, to use it:")
    lines = [f"export {name}={value}" for name, value in session.environment().items()]
    # With --json standard output ends with the report.
    (notes if json else results).print("\n".join(lines), markup=False, soft_wrap=True)
    notes.print("Ctrl-C stops it.")
