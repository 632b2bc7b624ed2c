"""After a job: what retention allows is removed, and a failure there changes nothing."""

import threading

from config.metrics import Metrics
from pipeline.versions.retention import Removal
from schemas.errors import (
    StoreUnavailable,
)
from tests.fakes.jobs import make_job
from tests.unit.consumers.workers.worker_bench import ListingLedger, run_job, until_stopped


def test_after_a_job_its_elder_is_tidied_and_a_failure_there_changes_no_end() -> None:
    tidied: list[str] = []

    def prune(elder_id: str) -> Removal | None:
        tidied.append(elder_id)
        if len(tidied) > 1:
            raise StoreUnavailable if len(tidied) == 2 else PermissionError
        return Removal(elder_id=elder_id, current=1, versions=(1, 2), tags=("t",), items=())

    ledger = ListingLedger(make_job(), make_job(), make_job())
    metrics = Metrics()
    for _ in range(3):
        run_job(ledger, metrics=metrics, prune=prune)
    assert tidied == ["LXM"] * 3
    assert [status for status, _ in ledger.ended] == ["succeeded"] * 3
    assert metrics.retention_removed.labels("version")._value.get() == 2
    assert metrics.retention_failures.labels("store_unavailable")._value.get() == 1
    assert metrics.retention_failures.labels("PermissionError")._value.get() == 1


def test_program_that_stops_does_not_stay_to_tidy() -> None:
    stop = threading.Event()
    stop.set()
    tidied: list[str] = []
    run_job(ListingLedger(make_job()), until_stopped, stop, prune=tidied.append)
    assert tidied == []
