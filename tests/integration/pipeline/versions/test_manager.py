"""Rollback, delete and list, over the registry and a host."""

from pathlib import Path

import pytest

from schemas.errors import ModelNotReady, UnknownVersion
from schemas.identifiers import current_tag
from tests.integration.pipeline.versions.versions import Served


def test_rollback_lets_the_version_before_answer(served: Served) -> None:
    served.version(1)
    served.version(2)
    done = served.manager.rollback("LXM")
    assert done.model.current == 1
    assert served.host.definition(current_tag("LXM")) == Path("weights-1")
    assert served.manager.rollback("LXM", 2).model.current == 2
    assert served.host.definition(current_tag("LXM")) == Path("weights-2")


def test_rollback_that_is_asked_for_again_by_the_same_command_is_done_once(served: Served) -> None:
    """A command is delivered again when its member dies before the commit."""
    for number in (1, 2, 3):
        served.version(number)
    for _ in range(2):
        assert served.manager.rollback("LXM", request="family/7").model.current == 2
    assert served.manager.rollback("LXM", request="family/8").model.current == 1


def test_rollback_beyond_the_first_or_to_nothing_changes_nothing(served: Served) -> None:
    served.version(1)
    for number in (None, 7):
        with pytest.raises(UnknownVersion):
            served.manager.rollback("LXM", number)
    assert served.manager.get_model("LXM").current == 1


def test_deleted_model_is_gone_from_both_and_others_stay(served: Served) -> None:
    served.version(1)
    served.host.copy("base", "afs_elder_LXM2:latest")
    removed = served.manager.delete_model("LXM")
    assert sorted(removed) == ["afs_elder_LXM:latest", "afs_elder_LXM:v1"]
    assert served.manager.list_models() == ["afs_elder_LXM2:latest"]
    for act in (served.manager.get_model, served.manager.rollback, served.manager.delete_model):
        with pytest.raises(ModelNotReady):
            act("LXM")


def test_list_shows_the_elders_alone_or_all(served: Served) -> None:
    served.version(1)
    served.host.copy("base", "afs_elder_LXM:v2-candidate3")
    assert served.manager.list_models() == ["afs_elder_LXM:latest", "afs_elder_LXM:v1"]
    assert "base:latest" in served.manager.list_models(filter_afs_only=False)


def test_rollback_to_a_version_that_retention_took_in_between_leaves_latest_as_it_was(
    served: Served,
) -> None:
    served.version(1)
    served.version(2)
    has = served.host.has

    def forget_after(tag: str) -> bool:
        found = has(tag)
        served.registry.forget("LXM", 2, (1,))
        return found

    served.host.has = forget_after  # type: ignore[method-assign]
    with pytest.raises(UnknownVersion):
        served.manager.rollback("LXM", 1)
    assert served.latest == "weights-2"
    assert served.registry.get("LXM").current == 2


def test_rollback_to_a_version_that_ollama_lost_names_a_job_and_changes_nothing(
    served: Served,
) -> None:
    served.version(1)
    served.version(2)
    served.host.delete("afs_elder_LXM:v1")
    done = served.manager.rollback("LXM", 1, request="family/7")
    assert done.job_id == served.forms.jobs["family/7"].id
    assert (served.registry.get("LXM").current, served.latest) == (2, "weights-2")
