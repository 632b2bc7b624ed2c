"""The order of the queue: which job is claimed next, so that no elder waits for another's flood.

It reads the ledger and writes nothing; the claim checks again that the job may still be claimed.
Decision 0012 has the rule and its reasons.

In a filter the most selective field comes first: SecantusDB uses the index of the first field
that has one. To MongoDB the order makes no difference.
"""

from datetime import datetime, timedelta

from pymongo import ASCENDING, DESCENDING

from pipeline.storage.mongo import JOBS, Document, Store

# At most so many elders count as served lately: it bounds what a claim reads.
_REMEMBERED = 100
_OLDEST = [("queued_at", ASCENDING), ("queue_order", ASCENDING)]


class FairQueue:
    """The queued jobs of all elders, in the order in which they are to begin."""

    def __init__(self, store: Store, *, fair_s: float) -> None:
        """An elder who was served within `fair_s` seconds waits behind those who were not."""
        self._jobs = store[JOBS]
        self._fair = timedelta(seconds=fair_s)

    def next(self, now: datetime) -> Document | None:
        """Return the job to begin at `now` (the server's clock); None where all must wait.

        Elders with an urgent job come first, and then all others. Within each of these groups,
        elders who were not served lately come first, by the age of their oldest job; then the
        others, the one served longest ago first.
        """
        away = self._away(now)
        served = [elder for elder in self._served(now) if elder not in away]
        for only in ({"urgent": True}, {}):
            first = self._first(only, away, served)
            if first is not None:
                return first
        return None

    def _away(self, now: datetime) -> set[str]:
        """Return the elders with a running job, and those whose next job is backing off.

        The jobs of one elder keep their order, so all of them wait.
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

    def _first(self, only: Document, away: set[str], served: list[str]) -> Document | None:
        """Return the first job of the next elder, among the jobs that match `only`."""
        lately: list[str] = []
        if served:
            of_served = {"elder_id": {"$in": served}, "status": "queued"}
            lately = self._jobs.distinct("elder_id", only | of_served)
        of_others = {"status": "queued", "elder_id": {"$nin": [*away, *lately]}}
        fields = {"elder_id": 1, "queue_order": 1}
        oldest = self._jobs.find_one(only | of_others, fields, sort=_OLDEST)
        if oldest is not None:
            return self._line(oldest["elder_id"], {"queue_order": {"$lte": oldest["queue_order"]}})
        longest_ago = next((elder for elder in served if elder in lately), None)
        return None if longest_ago is None else self._line(longest_ago, {})

    def _line(self, elder: str, part: Document) -> Document | None:
        """Return an elder's first job in the order of the log, among those that match `part`.

        Times of acceptance can be out of order, when a reader is held up in `accept`: within an
        elder the log decides. So an elder's earlier jobs go before an urgent one.
        """
        of_elder = {"elder_id": elder, "status": "queued"} | part
        return self._jobs.find_one(of_elder, sort=[("queue_order", ASCENDING)])
