"""The ids of what is published beside the ledger: a repeat has the same, and nothing else has."""

import pytest

from producers.events import Events
from schemas.envelope import Envelope
from schemas.events import DatasetReady
from tests.fakes.clock import NOW

READY = DatasetReady(elder_id="LXM", dataset_sha256="0" * 64, examples=4, skipped={}, path="/d")
CAUSE = Envelope(id="1", source="app", type="heirloom.answers-updated.v1", time=NOW, data=b"{}")


def event_id(ready: DatasetReady, cause: Envelope) -> bytes:
    events = Events("heirloom/modelserver", lambda name: name, lambda: NOW)
    return dict(events.dataset_ready(ready, cause=cause).headers)["ce_id"] or b""


def test_data_set_that_is_told_again_is_the_same_event() -> None:
    assert event_id(READY, CAUSE) == event_id(READY, CAUSE)
    assert event_id(READY, CAUSE).startswith(b"1/dataset-ready/")


@pytest.mark.parametrize(
    ("ready", "cause"),
    [
        (READY.model_copy(update={"elder_id": "ZJG"}), CAUSE),
        (READY.model_copy(update={"dataset_sha256": "1" * 64}), CAUSE),
        (READY, CAUSE.model_copy(update={"source": "another"})),
        (READY, CAUSE.model_copy(update={"id": "2"})),
    ],
)
def test_another_data_set_is_another_event(ready: DatasetReady, cause: Envelope) -> None:
    """A sender that numbers anew uses its ids twice: one elder must not hide another."""
    assert event_id(ready, cause) != event_id(READY, CAUSE)


def test_ids_of_any_length_stay_apart() -> None:
    long = [CAUSE.model_copy(update={"id": "x" * 511 + end}) for end in "ab"]
    ids = [event_id(READY, cause) for cause in long]
    assert ids[0] != ids[1]
    assert all(len(one) <= 512 for one in ids)
