"""`modelserver models prune` on a real store and a real Ollama API, over a real folder."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cli import models
from cli.main import app as cli
from consumers.app import App
from pipeline.ledger.new_job import NewJob
from pipeline.storage.files import write_file
from pipeline.storage.indexes import ensure_indexes
from schemas.errors import EvaluationFailed
from schemas.events import ErrorBody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.conftest import MakeSettings

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def app(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[App]:
    """The application over settings of its own, which the command uses too."""
    settings = make_settings(tmp_path)
    kept = settings.retention.model_copy(update={"versions": 1})
    made = App(settings.model_copy(update={"retention": kept}))
    ensure_indexes(made.store, dedup_hours=1)

    @contextmanager
    def opened() -> Iterator[App]:
        yield made

    monkeypatch.setattr(models, "open_app", opened)
    yield made
    made.close()


def run_job(app: App, number: int, *, fails: bool = False) -> Path:
    """Take a job through ledger, registry and disk as the worker does; return its folder."""
    new = NewJob(
        request_source="test",
        request_id=str(number),
        requested_at=AT,
        elder_id="LXM",
        elder_name="李秀梅",
        force_retrain=True,
        job_id=f"job{number}",
        base_model=None,
        overrides={},
        traceparent=None,
        queue_order=number,
    )
    app.ledger.accept([new])
    lease = app.ledger.claim("me")
    assert lease is not None
    made_of = {
        "base_model": "b",
        "method": "lora",
        "recipe_sha256": "a" * 64,
        "dataset_sha256": f"{number:064x}",
    }
    version = app.registry.open_version(lease.job, made_of, AT)
    attempt = app.settings.data_dir / "models" / "adapters" / "LXM" / lease.job.id / "1"
    gguf = write_file(attempt / "adapter" / "adapter.gguf", b"adapter")
    write_file(attempt / "checkpoint-00000001" / "tensors.safetensors", b"tensors")
    if fails:
        error = EvaluationFailed()
        app.ledger.finish(lease, "failed", error=ErrorBody(code=error.code, message=error.message))
    else:
        app.registry.release("LXM", version.model_copy(update={"gguf_sha256": gguf}))
        app.ledger.finish(lease, "succeeded")
    return attempt


def prune(*options: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["models", "prune", "--json", *options])
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_prune_shows_what_it_would_do_then_does_it_and_then_has_nothing_to_do(app: App) -> None:
    attempts = [run_job(app, number) for number in (1, 2, 3)]
    attempts.append(run_job(app, 4, fails=True))
    shown = prune("--dry-run")
    assert shown["dry_run"] is True
    assert all((attempt / "checkpoint-00000001").is_dir() for attempt in attempts)
    assert len(app.registry.get("LXM").versions) == 4
    (done,) = prune("LXM", "--yes")["removed"]
    assert [done] == shown["removed"]
    assert (done["elder_id"], done["versions"], done["tags"]) == ("LXM", [1, 4], [])
    assert [v.version for v in app.registry.get("LXM").versions] == [2, 3]
    left = app.settings.data_dir.rglob("*")
    assert sorted(str(p.relative_to(attempts[0].parents[1])) for p in left if p.is_file()) == [
        "job2/1/adapter/adapter.gguf",
        "job3/1/adapter/adapter.gguf",
    ]
    assert prune("--yes") == {"dry_run": False, "removed": []}
    assert "none" in CliRunner().invoke(cli, ["models", "prune", "--yes"]).stdout
