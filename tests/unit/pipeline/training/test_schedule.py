"""The steps of a run: each example once an epoch, and a learning rate that rises and falls."""

import pytest

from pipeline.training.schedule import Schedule, rate
from schemas.training import TrainingParameters

PARAMETERS = TrainingParameters(epochs=4, batch_size=2, gradient_accumulation_steps=2, seed=3)
WORDINGS = [(f"{n} as taught", f"{n} reworded") for n in range(10)]


def epoch_of(schedule: Schedule, epoch: int) -> list[str]:
    """Return the examples of an epoch in the order of its three steps."""
    steps = range(3 * epoch, 3 * epoch + 3)
    return [example for step in steps for example in schedule.batch_of(step, WORDINGS)]


def test_an_epoch_shows_each_example_once_in_an_order_of_its_own() -> None:
    schedule = Schedule(PARAMETERS, len(WORDINGS))
    assert schedule.total_steps == 12
    assert [len(schedule.batch_of(step, WORDINGS)) for step in range(3)] == [4, 4, 2]
    first, third = epoch_of(schedule, 0), epoch_of(schedule, 2)
    assert sorted(first) == sorted(third) == [taught for taught, _ in WORDINGS]
    assert first != third
    assert Schedule(PARAMETERS, len(WORDINGS)).batch_of(4, WORDINGS) == schedule.batch_of(
        4, WORDINGS
    )


def test_other_wordings_are_shown_in_odd_epochs_but_not_in_the_last_two() -> None:
    longer = Schedule(PARAMETERS.overlaid({"epochs": 6}), len(WORDINGS))
    reworded = [all("reworded" in e for e in epoch_of(longer, epoch)) for epoch in range(6)]
    assert reworded == [False, True, False, True, False, False]


def test_the_rate_rises_and_falls() -> None:
    """It warms up to the full rate, then falls, and stays above 0."""
    rates = [rate(step, 100) for step in range(100)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] > 0
