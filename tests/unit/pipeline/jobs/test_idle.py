"""Evaluations wait for an idle host; personas that they displace are loaded again."""

from collections.abc import Callable

import pytest

from config.settings import EvaluationSettings
from pipeline.hosting.port import ServedModel
from pipeline.jobs.idle import IdleHost
from schemas.errors import LeaseLost, OllamaUnavailable
from tests.fakes.hosting import FakeModelHost

CANDIDATE, OTHER = "afs_elder_LXM:v2-candidate1", "afs_elder_WDS:v1"


class World:
    """A host with two personas, and a clock that advances with each pause."""

    def __init__(self, *, quiet_s: float = 5, wait_s: float = 60) -> None:
        self.host = FakeModelHost()
        for tag in (CANDIDATE, OTHER, "heirloom-base-b"):
            self.host.create(tag, ServedModel(form="plain", system="", template="", stop=()))
        self.now = 0.0
        self.while_waiting: Callable[[], object] = lambda: None
        settings = EvaluationSettings(quiet_s=quiet_s, quiet_wait_s=wait_s)
        self.idle = IdleHost(
            self.host, settings, 512, pause=self._pause, monotonic=lambda: self.now
        )

    def _pause(self, seconds: float) -> None:
        self.now += seconds
        self.while_waiting()

    def ask(self, tag: str) -> None:
        self.host.ask(tag, [{"role": "user", "content": "?"}], {})


def go_on() -> None:
    """Nothing stops the work."""


def test_evaluation_begins_at_once_where_no_persona_is_loaded() -> None:
    world = World()
    world.ask("heirloom-base-b")
    with world.idle.when_idle(CANDIDATE, "merged", go_on):
        assert world.now == 0


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_evaluation_waits_until_no_persona_was_asked_for_a_while(form: str) -> None:
    world = World()
    world.ask(OTHER)

    def talk_for_twenty_seconds() -> None:
        if world.now <= 20:
            world.ask(OTHER)

    world.while_waiting = talk_for_twenty_seconds
    with world.idle.when_idle(CANDIDATE, form, go_on):  # type: ignore[arg-type]
        assert 25 <= world.now <= 26


def test_wait_is_limited() -> None:
    world = World(wait_s=60)
    world.ask(OTHER)
    world.while_waiting = lambda: world.ask(OTHER)
    with world.idle.when_idle(CANDIDATE, "merged", go_on):
        assert 60 <= world.now <= 61


def test_host_that_shares_a_base_is_not_waited_for() -> None:
    world = World()
    world.ask(OTHER)
    with world.idle.when_idle(CANDIDATE, "shared", go_on):
        assert world.now == 0


def test_displaced_persona_is_loaded_again_and_the_candidate_unloaded() -> None:
    world = World()
    world.ask(OTHER)
    with world.idle.when_idle(CANDIDATE, "adapter", go_on):
        world.host.unload(OTHER)  # As an Ollama does that keeps one persona per base.
        world.ask(CANDIDATE)
    assert [model.name for model in world.host.loaded()] == [OTHER]


def test_candidate_that_displaced_nothing_stays_loaded() -> None:
    """Its version has the same file: the first chat finds it loaded."""
    world = World()
    with world.idle.when_idle(CANDIDATE, "merged", go_on):
        world.ask(CANDIDATE)
    assert [model.name for model in world.host.loaded()] == [CANDIDATE]


def test_persona_that_stayed_is_not_loaded_again() -> None:
    world = World()
    world.ask(OTHER)
    with world.idle.when_idle(CANDIDATE, "merged", go_on):
        world.ask(CANDIDATE)
    assert "load" not in {call[0] for call in world.host.calls}


def test_error_of_the_check_ends_the_wait() -> None:
    world = World()
    world.ask(OTHER)

    def stop() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost), world.idle.when_idle(CANDIDATE, "merged", stop):
        pytest.fail("the evaluation began")


def test_host_that_goes_down_afterwards_does_not_undo_the_result() -> None:
    world = World()
    with world.idle.when_idle(CANDIDATE, "merged", go_on):
        world.host.is_down = True
    with pytest.raises(OllamaUnavailable):
        world.host.loaded()
