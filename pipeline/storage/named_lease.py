"""A named lease in MongoDB: it keeps two processes from doing the same work at once.

The lease expires by MongoDB's clock. Its holder also measures the time itself: a process that was
suspended past its lease detects that without asking MongoDB.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pymongo
from pymongo.errors import DuplicateKeyError

from pipeline.storage.mongo import LEASES, Store, store_errors
from schemas.errors import StoreUnavailable

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
# Compared as numbers: in SecantusDB no date is less than $$NOW.
_IS_EXPIRED = {"$lt": [{"$toLong": "$until"}, {"$toLong": "$$NOW"}]}


class NamedLease:
    """The right to do one kind of work, for `lease_s` seconds at a time."""

    def __init__(
        self,
        store: Store,
        name: str,
        owner: str,
        *,
        lease_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` names the work and `owner` this process; `monotonic` is its clock, in seconds."""
        self._leases = store[LEASES]
        self._name = name
        self._owner = owner
        self.lease_s = lease_s
        self._monotonic = monotonic
        # When the lease was last acquired; `lease_s` ago or longer while it is not held.
        self._asked_at = -lease_s

    def acquire(self) -> bool:
        """Acquire or renew the lease and say whether it is held; raises StoreUnavailable.

        A lease that is held is renewed only once a third of `lease_s` has passed.
        """
        if self._age() < self.lease_s / 3:
            return True
        asked_at = self._monotonic()
        # A call that hangs is given up well within the lease: this process must be able to drop its
        # producer's records before another one acquires the lease.
        with store_errors(), pymongo.timeout(self.lease_s / 2):
            taken = self._update() or self._create()
        self._asked_at = asked_at if taken else asked_at - self.lease_s
        return taken

    def renew(self) -> bool:
        """Acquire or renew; while MongoDB is unavailable, say whether the lease is still valid."""
        try:
            return self.acquire()
        except StoreUnavailable:
            return self.is_held()

    def is_held(self) -> bool:
        """Say whether the lease is still valid by this process's own clock."""
        return self._age() < self.lease_s

    def is_held_for(self, seconds: float) -> bool:
        """Renew; say whether the lease never lapsed and is valid for `seconds` more.

        If not, another process may have held it, so the caller must read its work again.
        """
        return self.is_held() and self.renew() and self._age() + seconds < self.lease_s

    def release(self) -> None:
        """Release the lease so that another can acquire it at once; raises StoreUnavailable."""
        self._asked_at = self._monotonic() - self.lease_s
        with store_errors():
            self._leases.update_one(
                {"_id": self._name, "owner": self._owner}, {"$set": {"until": _LONG_AGO}}
            )

    def _age(self) -> float:
        return self._monotonic() - self._asked_at

    def _update(self) -> bool:
        mine_or_free = {"$or": [{"owner": self._owner}, {"$expr": _IS_EXPIRED}]}
        fields = {
            "owner": {"$literal": self._owner},
            "until": {"$add": ["$$NOW", int(self.lease_s * 1000)]},
        }
        condition = {"_id": self._name} | mine_or_free
        return self._leases.update_one(condition, [{"$set": fields}]).matched_count == 1

    def _create(self) -> bool:
        """Create the lease and acquire it, if it has never existed."""
        try:
            self._leases.insert_one({"_id": self._name, "owner": "", "until": _LONG_AGO})
        except DuplicateKeyError:
            return False  # Another process holds it.
        return self._update()
