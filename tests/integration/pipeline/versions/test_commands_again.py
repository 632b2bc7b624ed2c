"""Rollback and delete, sent twice at once and redelivered."""

import pytest

from schemas.errors import ModelNotReady
from tests.integration.pipeline.versions.versions import Served


class Killed(BaseException):
    """The process was killed."""


def test_rollbacks_that_cross_leave_latest_at_what_the_registry_says(served: Served) -> None:
    for number in (1, 2, 3):
        served.version(number)
    served.before_next_copy_to_latest(lambda: served.manager.rollback("LXM", 1))
    assert served.manager.rollback("LXM", 2).model.current == 1
    assert served.latest == "weights-1"


def test_two_rollbacks_without_a_number_go_back_two_versions(served: Served) -> None:
    """Each goes one version back from what it reads, also if both read at the same moment."""
    for number in (1, 2, 3):
        served.version(number)
    served.before_next_select(lambda: served.manager.rollback("LXM", request="family/2"))
    served.manager.rollback("LXM", request="family/1")
    assert (served.registry.get("LXM").current, served.latest) == (1, "weights-1")


def test_one_rollback_at_two_members_at_once_is_done_once(served: Served) -> None:
    """The partition was reassigned while the first member was at work."""
    for number in (1, 2, 3):
        served.version(number)
    served.before_next_select(lambda: served.manager.rollback("LXM", request="family/1"))
    assert served.manager.rollback("LXM", request="family/1").model.current == 2
    assert served.latest == "weights-2"


def test_rollback_cut_short_is_ended_by_the_command_that_comes_again(served: Served) -> None:
    for number in (1, 2, 3):
        served.version(number)

    def die() -> None:
        raise Killed

    served.before_next_copy_to_latest(die)
    with pytest.raises(Killed):
        served.manager.rollback("LXM", request="family/1")
    assert (served.registry.get("LXM").current, served.latest) == (2, "weights-3")
    assert served.manager.rollback("LXM", request="family/1").model.current == 2
    assert served.latest == "weights-2"


def test_delete_that_comes_again_leaves_a_model_trained_meanwhile(served: Served) -> None:
    served.version(1)
    gone = served.manager.delete_model("LXM", request="family/1")
    assert gone == ["afs_elder_LXM:latest", "afs_elder_LXM:v1"]
    served.version(2)
    assert served.manager.delete_model("LXM", request="family/1") == gone
    assert (served.registry.get("LXM").current, served.latest) == (2, "weights-2")
    assert served.manager.delete_model("LXM", request="family/2") == [
        "afs_elder_LXM:latest",
        "afs_elder_LXM:v2",
    ]


def test_delete_cut_short_is_ended_by_the_command_that_comes_again(served: Served) -> None:
    served.version(1)
    served.version(2)
    delete, left = served.host.delete, [1]

    def dying(tag: str) -> bool:
        if not left:
            raise Killed
        left.pop()
        return delete(tag)

    served.host.delete = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        served.manager.delete_model("LXM", request="family/1")
    served.host.delete = delete  # type: ignore[method-assign]
    assert len(served.manager.delete_model("LXM", request="family/1")) == 3
    assert served.manager.list_models() == []
    assert served.registry.get("LXM").current is None


def test_rollback_that_comes_again_after_a_delete_is_still_known_as_done(served: Served) -> None:
    served.version(1)
    served.version(2)
    served.manager.rollback("LXM", request="family/1")
    served.manager.delete_model("LXM", request="family/2")
    assert served.manager.rollback("LXM", request="family/1").model.current is None
    with pytest.raises(ModelNotReady):
        served.manager.rollback("LXM", request="family/3")
