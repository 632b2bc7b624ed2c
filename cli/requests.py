"""`modelserver train` and `chat`: send by hand what upstream and the family app send."""

from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cli.elder_ids import require_elder_id
from consumers.app import App
from consumers.client import Follower, Sender, new_id, with_correlation
from schemas.errors import TrainingFailed, error_of
from schemas.events import TERMINAL_STATUSES, ChatRequest, ChatTurn, TrainRequested
from schemas.topics import CHAT_REPLIES, TRAIN_PROGRESS
from terminal.output import notes, print_json, results
from terminal.progress import describe_progress
from terminal.wiring import ElderIdArgument, Json, open_app, open_sender

_WATCH_LIMIT_S = 24 * 3600.0
_HISTORY_TURNS = 20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(train)
    app.command()(chat)


def train(
    elder_id: ElderIdArgument,
    name: Annotated[str, typer.Option(help="The elder's name.")],
    force: Annotated[bool, typer.Option("--force", help="Train even if nothing changed.")] = False,
    base: Annotated[
        str | None,
        typer.Option(help="A base model of training_config.yaml; none: the current one."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    json: Json = False,
) -> None:
    """Request a training, as the upstream app does.

    Example: modelserver train LXM19580312F --name 李秀梅 --watch
    """
    event_id = new_id()
    # A job id of our own, so that this command can follow the job.
    request = TrainRequested(
        elder_id=require_elder_id(elder_id),
        elder_name=name,
        force_retrain=force,
        base_model=base,
        job_id=f"{elder_id}_{event_id[:12]}",
    )
    with open_app() as app, Follower(app.settings, [TRAIN_PROGRESS.name]) as follower:
        with open_sender(app) as sender:
            sender.send(sender.events.train_requested(request, event_id=event_id))
        if not watch:
            print_json({"job_id": request.job_id}) if json else results.print(request.job_id)
            return
        _watch(follower, str(request.job_id), json)


def _watch(follower: Follower, job_id: str, json: bool) -> None:
    def is_end(data: dict[str, Any]) -> bool:
        return data["job_id"] == job_id and data["status"] in TERMINAL_STATUSES

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    last: dict[str, Any] = {}
    with Progress(*columns, console=notes, disable=json) as bar:
        task = bar.add_task("queued", total=100, detail="")
        for event in follower.until(lambda e: is_end(e.data), _WATCH_LIMIT_S):
            if event is None or event.data["job_id"] != job_id:
                continue
            last = event.data
            if json:
                print_json(last)
            stage = last["stage"] or last["status"]
            bar.update(
                task, completed=last["progress"], description=stage, detail=describe_progress(last)
            )
    if last["status"] != "succeeded":
        error = last["error"] or {"code": TrainingFailed.code, "message": last["status"]}
        raise error_of(error["code"], error["message"])
    if not json:
        results.print(f"{job_id}: {last['status']}")


def chat(
    elder_id: ElderIdArgument,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this one question.")
    ] = None,
    json: Json = False,
) -> None:
    """Talk with an elder's model; an empty line ends the conversation.

    Example: modelserver chat LXM19580312F -m "您的老家在什么地方？"
    """
    require_elder_id(elder_id)
    with (
        open_app() as app,
        Follower(
            app.settings, [CHAT_REPLIES.name], fetch_wait_ms=app.settings.kafka.chat_fetch_wait_ms
        ) as follower,
        open_sender(app) as sender,
    ):
        if message is not None:
            _say(_ask(app, follower, sender, elder_id, message, []), json)
            return
        history: list[ChatTurn] = []
        while question := _read_question():
            reply = _ask(app, follower, sender, elder_id, question, history)
            _say(reply, json)
            history += [
                ChatTurn(role="user", content=question),
                ChatTurn(role="assistant", content=reply["reply"] or "…"),
            ]
            del history[:-_HISTORY_TURNS]


def _read_question() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _ask(
    app: App,
    follower: Follower,
    sender: Sender,
    elder_id: str,
    message: str,
    history: list[ChatTurn],
) -> dict[str, Any]:
    event_id = new_id()
    correlation = event_id.encode()
    request = ChatRequest(elder_id=elder_id, message=message, conversation_history=tuple(history))
    asked = sender.events.chat_requested(request, event_id=event_id)
    sender.send(with_correlation(asked, correlation))
    limit_s = app.settings.chat.deadline_s + 10
    for incoming in follower.until(lambda e: e.correlation_id == correlation, limit_s):
        if incoming is not None and incoming.correlation_id == correlation:
            return incoming.data
    raise TimeoutError("no reply came in time; is `modelserver run` up?")


def _say(reply: dict[str, Any], json: bool) -> None:
    if reply["error"]:
        if json:
            print_json(reply)
        raise error_of(reply["error"]["code"], reply["error"]["message"])
    if json:
        print_json(reply)
    else:
        results.print(reply["reply"], markup=False)
        notes.print(f"[dim]AI-generated by {reply['model']}, {reply['duration_ms']} ms[/]")
