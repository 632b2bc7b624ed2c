"""A lease by name in MongoDB: one holder at a time for work that must not be done by two.

The lease is kept on MongoDB's clock. Its holder asks its own clock as well, so that a process
that was stopped and goes on past its lease knows it before it has asked anybody.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pymongo
from pymongo.errors import DuplicateKeyError

from pipeline.storage.mongo import LEASES, Store, store_errors
from schemas.errors import StoreUnavailable

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
# As numbers: SecantusDB never finds a date smaller than $$NOW.
_IS_OVER = {"$lt": [{"$toLong": "$until"}, {"$toLong": "$$NOW"}]}


class Lease:
    """The right to do one kind of work, for `lease_s` at a time."""

    def __init__(
        self,
        store: Store,
        name: str,
        owner: str,
        *,
        lease_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = store[LEASES]
        self._name = name
        self._owner = owner
        self.lease_s = lease_s
        self._monotonic = monotonic
        self._asked_at = -lease_s

    def acquire(self) -> bool:
        """Acquire or renew the lease and say whether it is held; raises StoreUnavailable.

        MongoDB is asked at most three times a lease.
        """
        if self._age() < self.lease_s / 3:
            return True
        asked_at = self._monotonic()
        # Within the lease, also where the connection hangs: the producer's records must be dropped
        # before somebody else may have the lease.
        with store_errors(), pymongo.timeout(self.lease_s / 2):
            taken = self._update() or self._make()
        self._asked_at = asked_at if taken else asked_at - self.lease_s
        return taken

    def renew(self) -> bool:
        """Acquire or renew; where MongoDB does not answer, say whether the lease still runs."""
        try:
            return self.acquire()
        except StoreUnavailable:
            return self.is_held()

    def is_held(self) -> bool:
        """Say whether the lease still runs by this process's own clock."""
        return self._age() < self.lease_s

    def is_held_for(self, seconds: float) -> bool:
        """Say whether it was held until now without a break, and is for so long; renews it.

        Whoever acquires it anew, after somebody else had it, must look again at the work.
        """
        return self.is_held() and self.renew() and self._age() + seconds < self.lease_s

    def release(self) -> None:
        """Let the next one in at once; raises StoreUnavailable."""
        self._asked_at = self._monotonic() - self.lease_s
        with store_errors():
            self._leases.update_one(
                {"_id": self._name, "owner": self._owner}, {"$set": {"until": _LONG_AGO}}
            )

    def _age(self) -> float:
        return self._monotonic() - self._asked_at

    def _update(self) -> bool:
        mine_or_free = {"$or": [{"owner": self._owner}, {"$expr": _IS_OVER}]}
        fields = {
            "owner": {"$literal": self._owner},
            "until": {"$add": ["$$NOW", int(self.lease_s * 1000)]},
        }
        condition = {"_id": self._name} | mine_or_free
        return self._leases.update_one(condition, [{"$set": fields}]).matched_count == 1

    def _make(self) -> bool:
        """Make the lease where nobody ever had it."""
        try:
            self._leases.insert_one({"_id": self._name, "owner": "", "until": _LONG_AGO})
        except DuplicateKeyError:
            return False  # Somebody has it.
        return self._update()
