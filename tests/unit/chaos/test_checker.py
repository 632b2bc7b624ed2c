"""The checker finds no fault in a good run."""

from tests.unit.chaos.planted import good_run, verdict


def test_a_good_run_is_settled_and_has_no_fault() -> None:
    _, case = good_run()
    assert verdict(case).faults == ()
