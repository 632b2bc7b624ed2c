"""Many histories of one ledger, each drawn from a seed: none breaks a guarantee.

A few hundred by default. For more, and for the one that failed:

    export HISTORIES=tests/unit/pipeline/ledger/test_ledger_simulation.py
    LEDGER_HISTORIES=10000 pytest $HISTORIES
    LEDGER_FIRST_SEED=123 LEDGER_HISTORIES=1 pytest $HISTORIES
"""

import os

import pytest

from tests.ledger.simulation import Simulation

HISTORIES = int(os.environ.get("LEDGER_HISTORIES", "400"))
FIRST_SEED = int(os.environ.get("LEDGER_FIRST_SEED", "0"))
IN_ONE_TEST = 200
_END = FIRST_SEED + HISTORIES


@pytest.mark.parametrize("first", range(FIRST_SEED, _END, IN_ONE_TEST))
def test_no_history_breaks_a_promise(first: int) -> None:
    for seed in range(first, min(first + IN_ONE_TEST, _END)):
        try:
            Simulation(seed).run()
        except Exception as failure:
            failure.add_note(f"again with LEDGER_FIRST_SEED={seed} LEDGER_HISTORIES=1")
            raise


def test_same_seed_is_the_same_history() -> None:
    """Otherwise a failed seed could not be repeated."""
    first, again = Simulation(7), Simulation(7)
    first.run()
    again.run()
    assert first.witness.jobs == again.witness.jobs
    assert list(first.witness.published) == list(again.witness.published)
