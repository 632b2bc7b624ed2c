"""What the demo's report says of an elder's model."""

from datetime import UTC, datetime

from demo.show import describe_form
from schemas.documents import ModelVersion, VersionForm

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def version(*forms: VersionForm) -> ModelVersion:
    return ModelVersion(
        version=1,
        job_id="LXM_1",
        fence=1,
        ready=True,
        tag="afs_elder_LXM:v1",
        base_model="tiny",
        method="lora",
        recipe_sha256="0" * 64,
        dataset_sha256="0" * 64,
        forms=forms,
        created_at=_NOW,
    )


def test_the_report_names_the_newest_form_and_the_size_of_its_file() -> None:
    adapter = VersionForm(form="adapter", size_bytes=1_000, made_at=_NOW)
    merged = VersionForm(form="merged", size_bytes=292_000_000, made_at=_NOW)
    found = describe_form(version(adapter, merged))
    assert found == {"form": "merged", "form_bytes": 292_000_000}


def test_where_nothing_answers_there_is_no_form() -> None:
    assert describe_form(None) == {"form": None, "form_bytes": 0}
