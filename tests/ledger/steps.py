"""Steps of the state machine: what is requested, and at which write a fault cuts a step short."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st
from pymongo.errors import AutoReconnect

from schemas.errors import ModelServerError, StoreUnavailable
from tests.fakes.mongo import FakeStore, Moment, nothing_happens
from tests.ledger.witness import Crash


@dataclass(frozen=True)
class Fault:
    """What goes wrong at which of a step's writes."""

    write: int
    when: Literal["before", "after"]
    error: type[BaseException]


@dataclass
class Outcome:
    """What a step returned or raised, how many writes it made, and whether it was cut short."""

    result: Any = None
    error: BaseException | None = None
    writes: int = 0
    is_cut: bool = False


faults = st.none() | st.builds(
    Fault,
    write=st.integers(1, 4),
    when=st.sampled_from(["before", "after"]),
    error=st.sampled_from([Crash, AutoReconnect]),
)
requests = st.tuples(
    st.sampled_from(["LXM", "LXM", "ZJG", "WSF"]),
    st.integers(0, 1),
    st.sampled_from([None, "mine"]),
)


def do_under(store: FakeStore, work: Callable[[], object], fault: Fault | None) -> Outcome:
    """Take a step over the store, cut short by the fault, and say what came of it."""
    outcome = Outcome()

    def look(moment: Moment) -> None:
        if not moment.is_write:
            return
        is_now = fault and (fault.write, fault.when) == (outcome.writes + 1, moment.when)
        outcome.writes += moment.when == "after"
        if fault and is_now:
            outcome.is_cut = True
            raise fault.error

    store.on_moment = look
    try:
        outcome.result = work()
    except (Crash, ModelServerError) as error:
        outcome.error = error
    store.on_moment = nothing_happens
    if outcome.is_cut:
        assert isinstance(outcome.error, (Crash, StoreUnavailable))
    return outcome
