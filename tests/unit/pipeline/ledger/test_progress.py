"""Progress: it never goes back, and the remaining time is said as people say it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.training import Language
from pipeline.ledger.eta_text import format_eta
from pipeline.ledger.progress import STAGE_RANGES, ProgressTracker
from schemas.events import Stage
from schemas.training import TrainingProgress


def measured(
    stage: str, step: int, total: int = 10, *, loss: float | None = None, eta: float | None = None
) -> TrainingProgress:
    return TrainingProgress.model_validate(
        {
            "stage": stage,
            "step": step,
            "total_steps": total,
            "epoch": 1,
            "total_epochs": 3,
            "loss": loss,
            "eta_seconds": eta,
        }
    )


moves = st.one_of(
    st.sampled_from(list(STAGE_RANGES)),
    st.floats(-1, 2),
    st.builds(
        measured,
        st.sampled_from(["preparing", "training", "converting"]),
        st.integers(0, 20),
        st.integers(0, 10),
    ),
)


@given(st.lists(moves, max_size=20))
@settings(deadline=None, max_examples=100, database=None)
def test_percentage_never_goes_back_whatever_comes(
    order: list[Stage | float | TrainingProgress],
) -> None:
    tracker, seen = ProgressTracker(), 0
    for move in order:
        if isinstance(move, str):
            state = tracker.start_tracking(move)
        elif isinstance(move, float):
            state = tracker.update_progress(move)
        else:
            state = tracker.update_training(move)
        assert seen <= state.progress <= 99
        seen = state.progress


def test_stages_follow_on_one_another_and_only_success_is_a_hundred() -> None:
    ranges = list(STAGE_RANGES.values())
    assert [start for start, _ in ranges[1:]] == [end for _, end in ranges[:-1]]
    assert ranges[0][0] == 0 and ranges[-1][1] == 99


def test_training_moves_within_its_stage() -> None:
    tracker = ProgressTracker()
    start, end = STAGE_RANGES["training"]
    assert tracker.update_training(measured("training", 0)).progress == start
    assert tracker.update_training(measured("training", 5)).progress == (start + end) // 2
    assert tracker.update_training(measured("training", 10)).progress == end


def test_what_training_measured_stays_to_be_seen_and_its_eta_does_not() -> None:
    tracker = ProgressTracker()
    tracker.update_training(measured("training", 10, loss=0.5, eta=4.6))
    assert tracker.state.eta_seconds == 5
    state = tracker.start_tracking("evaluating")
    assert (state.step, state.loss, state.eta_seconds) == (10, 0.5, None)


def test_loss_that_was_not_measured_is_the_last_one() -> None:
    tracker = ProgressTracker()
    tracker.update_training(measured("training", 1, loss=0.5))
    assert tracker.update_training(measured("training", 2)).loss == 0.5


def test_job_of_no_steps_divides_by_nothing() -> None:
    assert ProgressTracker().update_training(measured("training", 0, 0)).progress == 5


@pytest.mark.parametrize(
    ("seconds", "language", "words"),
    [
        (0, "zh", "0秒"),
        (40, "zh", "40秒"),
        (300, "zh", "5分钟"),
        (4800, "zh", "1小时20分钟"),
        (3600, "zh", "1小时"),
        (0, "en", "0 s"),
        (40, "en", "40 s"),
        (300, "en", "5 min"),
        (331, "en", "6 min"),
        (4800, "en", "1 h 20 min"),
        (7200, "en", "2 h"),
    ],
)
def test_remaining_time_is_said_as_people_say_it(
    seconds: int, language: Language, words: str
) -> None:
    assert format_eta(seconds, language) == words
