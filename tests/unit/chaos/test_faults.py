"""Which faults a campaign and a soak draw."""

import pytest

from tests.chaos.campaign import fault_of
from tests.chaos.faults import FAULTS, NONE
from tests.chaos.soak import leaves_members_alive


def test_soak_draws_no_fault_that_kills_or_stops_whom_it_measures() -> None:
    drawn = [fault.name for fault in FAULTS if leaves_members_alive(fault)]
    assert len(drawn) > 20
    assert NONE.name not in drawn
    assert [name for name in drawn if "kill" in name or "SIG" in name] == []


@pytest.mark.parametrize("count", [1, 2, 37, 74, len(FAULTS)])
def test_each_fault_has_its_turn_in_a_round(count: int) -> None:
    some = list(FAULTS[:count])
    assert {fault_of(seed, some) for seed in range(90_000, 90_000 + count)} == set(some)


def test_few_runs_have_all_kinds() -> None:
    kinds = {
        (f.action, f.around) for f in (fault_of(n, list(FAULTS)) for n in range(90_000, 90_016))
    }
    assert len(kinds) >= 8
