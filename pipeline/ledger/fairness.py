"""Fair queueing: which queued job to claim next, so that one elder's many jobs delay no other.

It reads the ledger and writes nothing. `leases` claims the job that is named here and checks again
that it may be claimed.
Decision 0012 has the rule and its reasons.

In a filter the most selective field comes first: SecantusDB uses the index of the first field
that has one. MongoDB ignores the order.
"""

from datetime import datetime, timedelta

from pymongo import ASCENDING, DESCENDING

from pipeline.storage.mongo import JOBS, Document, Store

# How many recently served jobs a claim reads, to bound the query. Elders whose jobs are all older
# count as not served lately.
_REMEMBERED = 100
_OLDEST = [("queued_at", ASCENDING), ("queue_order", ASCENDING)]


class FairQueue:
    """The queued jobs of all elders, in the order in which they are to begin.

    Errors of pymongo go through: the caller wraps the call in `store_errors`.
    """

    def __init__(self, store: Store, *, fair_s: float) -> None:
        """An elder who was served within `fair_s` seconds waits behind those who were not."""
        self._jobs = store[JOBS]
        self._fair = timedelta(seconds=fair_s)

    def next(self, now: datetime) -> Document | None:
        """Return the job to begin at `now`, the server's time; None if there is none to begin.

        Elders with an urgent job come before all others. Within both groups, elders who were not
        served lately come first, the one with the oldest job before the others; then those who
        were, the one served longest ago before the others.
        """
        blocked = self._blocked(now)
        served = [elder for elder in self._served(now) if elder not in blocked]
        for only in ({"urgent": True}, {}):
            first = self._first(only, blocked, served)
            if first is not None:
                return first
        return None

    def _blocked(self, now: datetime) -> set[str]:
        """Return the elders with a running job, and those with a job in backoff.

        One elder's jobs keep their order, so all of them wait.
        """
        busy = self._jobs.distinct("elder_id", {"status": "running"})
        backing_off = {"not_before": {"$gt": now}, "status": "queued"}
        return {*busy, *self._jobs.distinct("elder_id", backing_off)}

    def _served(self, now: datetime) -> list[str]:
        """Return the elders served lately, the one served longest ago first."""
        lately = {"served_at": {"$gt": now - self._fair}}
        newest = self._jobs.find(lately, {"elder_id": 1, "served_at": 1})
        last: dict[str, datetime] = {}
        for job in newest.sort("served_at", DESCENDING).limit(_REMEMBERED):
            last.setdefault(job["elder_id"], job["served_at"])
        return sorted(last, key=lambda elder: (last[elder], elder))

    def _first(self, only: Document, blocked: set[str], served: list[str]) -> Document | None:
        """Return the first job of the next elder, among elders with a job that `only` matches."""
        lately: list[str] = []
        if served:
            of_served = {"elder_id": {"$in": served}, "status": "queued"}
            lately = self._jobs.distinct("elder_id", only | of_served)
        of_others = {"status": "queued", "elder_id": {"$nin": [*blocked, *lately]}}
        fields = {"elder_id": 1, "queue_order": 1}
        oldest = self._jobs.find_one(only | of_others, fields, sort=_OLDEST)
        if oldest is not None:
            up_to_it = {"queue_order": {"$lte": oldest["queue_order"]}}
            return self._first_of_elder(oldest["elder_id"], up_to_it)
        longest_ago = next((elder for elder in served if elder in lately), None)
        return None if longest_ago is None else self._first_of_elder(longest_ago, {})

    def _first_of_elder(self, elder: str, part: Document) -> Document | None:
        """Return an elder's first queued job in the order of the log, among those `part` matches.

        Within an elder the log decides, not the time of acceptance: a consumer that is suspended
        within `accept` stores an old time. So an elder's earlier jobs come before an urgent one.
        """
        of_elder = {"elder_id": elder, "status": "queued"} | part
        return self._jobs.find_one(of_elder, sort=[("queue_order", ASCENDING)])
