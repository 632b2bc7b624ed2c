"""A quiet moment: the families' conversations go before an evaluation, and come back after it."""

from collections.abc import Callable

import pytest

from config.settings import EvaluationSettings
from pipeline.hosting.port import ServedModel
from pipeline.jobs.quiet import QuietMoments
from schemas.errors import LeaseLost, OllamaUnavailable
from tests.fakes.hosting import FakeModelHost

CANDIDATE, OTHER = "afs_elder_LXM:v2-candidate1", "afs_elder_WDS:v1"


class World:
    """A host with two personas, and a clock that moves when somebody waits."""

    def __init__(self, *, quiet_s: float = 5, wait_s: float = 60) -> None:
        self.host = FakeModelHost()
        for tag in (CANDIDATE, OTHER, "heirloom-base-b"):
            self.host.create(tag, ServedModel(form="plain", system="", template="", stop=()))
        self.now = 0.0
        self.while_waiting: Callable[[], object] = lambda: None
        settings = EvaluationSettings(quiet_s=quiet_s, quiet_wait_s=wait_s)
        self.moments = QuietMoments(
            self.host, settings, 512, pause=self._pause, monotonic=lambda: self.now
        )

    def _pause(self, seconds: float) -> None:
        self.now += seconds
        self.while_waiting()

    def ask(self, tag: str) -> None:
        self.host.ask(tag, [{"role": "user", "content": "?"}], {})


def go_on() -> None:
    """Nothing stops the work."""


def test_nobody_waits_where_nobody_is_being_talked_with() -> None:
    world = World()
    world.ask("heirloom-base-b")
    with world.moments.quiet(CANDIDATE, "merged", go_on):
        assert world.now == 0


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_evaluation_waits_until_nobody_was_asked_for_a_while(form: str) -> None:
    world = World()
    world.ask(OTHER)

    def talk_for_twenty_seconds() -> None:
        if world.now <= 20:
            world.ask(OTHER)

    world.while_waiting = talk_for_twenty_seconds
    with world.moments.quiet(CANDIDATE, form, go_on):  # type: ignore[arg-type]
        assert 25 <= world.now <= 26


def test_evaluation_does_not_wait_for_ever() -> None:
    world = World(wait_s=60)
    world.ask(OTHER)
    world.while_waiting = lambda: world.ask(OTHER)
    with world.moments.quiet(CANDIDATE, "merged", go_on):
        assert 60 <= world.now <= 61


def test_host_that_shares_a_base_needs_no_quiet_moment() -> None:
    world = World()
    world.ask(OTHER)
    with world.moments.quiet(CANDIDATE, "shared", go_on):
        assert world.now == 0


def test_persona_that_had_to_go_comes_back_and_the_candidate_goes() -> None:
    world = World()
    world.ask(OTHER)
    with world.moments.quiet(CANDIDATE, "adapter", go_on):
        world.host.unload(OTHER)  # As an Ollama does that holds one persona a base.
        world.ask(CANDIDATE)
    assert [model.name for model in world.host.loaded()] == [OTHER]


def test_candidate_stays_in_memory_where_it_was_in_nobodys_way() -> None:
    """Its version has the same file: the first chat finds it loaded."""
    world = World()
    with world.moments.quiet(CANDIDATE, "merged", go_on):
        world.ask(CANDIDATE)
    assert [model.name for model in world.host.loaded()] == [CANDIDATE]


def test_persona_that_stayed_is_not_loaded_again() -> None:
    world = World()
    world.ask(OTHER)
    with world.moments.quiet(CANDIDATE, "merged", go_on):
        world.ask(CANDIDATE)
    assert "load" not in {call[0] for call in world.host.calls}


def test_what_stops_the_work_ends_the_waiting() -> None:
    world = World()
    world.ask(OTHER)

    def stop() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost), world.moments.quiet(CANDIDATE, "merged", stop):
        pytest.fail("the evaluation began")


def test_host_that_goes_away_afterwards_does_not_undo_the_result() -> None:
    world = World()
    with world.moments.quiet(CANDIDATE, "merged", go_on):
        world.host.is_down = True
    with pytest.raises(OllamaUnavailable):
        world.host.loaded()
