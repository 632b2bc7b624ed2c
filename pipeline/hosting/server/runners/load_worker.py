"""The threads that load runners for waiting requests: one per base while requests wait."""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.runners.adapter_choice import AdapterChoice
from pipeline.hosting.server.runners.base_queue import BaseQueue
from pipeline.hosting.server.runners.capacity import NO_CONTEXT_LIMIT, Capacity
from pipeline.hosting.server.runners.instance import Instance
from pipeline.hosting.server.runners.instance_pool import InstancePool
from pipeline.hosting.server.runners.load_report import LoadReport
from pipeline.hosting.server.runners.loader import Loader, LoadPlan, LoadResult
from pipeline.hosting.server.runners.pending_request import PendingRequest

# The request holds a manifest that was replaced after the request had read it.
REPLACED: Final = "the model was replaced or removed; ask again"
_LOG = logging.getLogger(__name__)


class LoadWorker:
    """Loads instances until no request waits, and puts them in service."""

    def __init__(
        self,
        store: Store,
        loader: Loader,
        capacity: Capacity,
        *,
        pool: InstancePool,
        adapters: AdapterChoice,
        lock: AbstractContextManager[object],
        clock: Callable[[], float],
        on_load: Callable[[LoadReport], None],
    ) -> None:
        """`lock` guards `pool` and `adapters`; `on_load` is called without it after each load."""
        self._store = store
        self._loader = loader
        self._capacity = capacity
        self._pool = pool
        self._adapters = adapters
        self._lock = lock
        self._clock = clock
        self._on_load = on_load
        self._is_stopped = False

    def stop(self) -> None:
        """Begin no further load. The caller holds the lock."""
        self._is_stopped = True

    def ensure_thread(self, queue: BaseQueue) -> None:
        """Start the queue's thread unless it runs. The caller holds the lock."""
        if queue.load_thread is not None or self._is_stopped:
            return
        name = f"load-{queue.base.removeprefix('sha256:')[:8]}"
        queue.load_thread = threading.Thread(
            target=self._run_loads, args=(queue,), name=name, daemon=True
        )
        try:
            queue.load_thread.start()
        except RuntimeError:
            queue.load_thread = None
            queue.refuse(Refusal(503, "this machine has no thread left to load a model; ask again"))

    def _run_loads(self, queue: BaseQueue) -> None:
        """Load instances until no request waits."""
        try:
            while (plan := self._next_plan(queue)) is not None:
                self._load(queue, plan)
        except Exception as fault:  # thread boundary: the waiting requests must be refused
            name = type(fault).__name__
            _LOG.exception("the start of %s failed: %s", queue.base, name)
            with self._lock:
                queue.load_thread = None
                queue.fail_base(Refusal(500, f"the model cannot be loaded: {name}"))

    def _next_plan(self, queue: BaseQueue) -> LoadPlan | None:
        with self._lock:
            queue.refuse(
                Refusal(503, REPLACED), lambda request: not self._has_files(queue, request)
            )
            first = queue.pending[0] if queue.pending else None
            if self._is_stopped or (first is None and not self._pool.is_stale(queue)):
                queue.load_thread = None
                return None
            waiting = [request.adapters for request in queue.pending]
            adapters = () if queue.embeds else self._adapters.choose(queue.base, waiting)
            if first is None and not (adapters and self._store.has_blob(queue.base)):
                self._pool.retire(queue)
                queue.load_thread = None
                return None
            plan = LoadPlan(
                base=queue.base,
                embeds=queue.embeds,
                adapters=adapters,
                required=first.adapters if first else (),
                model=first.model if first else "",
                context=self._context_of(queue),
            )
            needs_eviction = queue.forbids_overlap or not self._capacity.overlaps
            evicted = self._pool.evict_for(queue) if needs_eviction else []
        self._wait_until_closed(evicted)
        return plan

    def _context_of(self, queue: BaseQueue) -> int:
        asked = [request.context for request in queue.pending]
        if asked and (queue.embeds or self._capacity.max_adapters == 1):
            return asked[0]
        limit = self._context_limit(queue.base)
        # Never less than before: requests of two sizes would otherwise reload the base again and
        # again.
        before = queue.current.runner.context if queue.current else 0
        return max((min(self._capacity.context, limit), before, *asked))

    def _load(self, queue: BaseQueue, plan: LoadPlan) -> None:
        began = self._clock()
        error: str | None = None
        adapters, is_down = plan.adapters, False
        try:
            result = self._load_or_evict(queue, plan)
        except Refusal as refusal:
            error, is_down = refusal.message, True
            with self._lock:
                # Even if no request waits: a deleted adapter must leave memory.
                self._pool.retire(queue)
                queue.fail_base(refusal)
        else:
            adapters = result.runner.adapters
            if result.refusal is not None:
                error = result.refusal.message
            self._put_in_service(queue, plan, result)
        seconds = self._clock() - began
        self._on_load(
            LoadReport(
                base=plan.base,
                adapters=len(adapters),
                seconds=seconds,
                error=error,
                is_down=is_down,
            )
        )

    def _load_or_evict(self, queue: BaseQueue, plan: LoadPlan) -> LoadResult:
        """Load beside the current instances; if that fails, evict them and try once more."""
        try:
            return self._loader.load(plan)
        except Refusal:
            with self._lock:
                evicted = self._pool.evict_for(queue)
            if not evicted:
                raise
            self._wait_until_closed(evicted)
            result = self._loader.load(plan)
            with self._lock:
                queue.note_overlap_failure()
            return result

    def _put_in_service(self, queue: BaseQueue, plan: LoadPlan, result: LoadResult) -> None:
        instance = Instance(result.runner, plan.model, self._clock())
        with self._lock:
            if result.refusal is not None:
                queue.fail_adapters(plan.required, result.refusal)
            if self._is_stopped or (result.refusal is not None and queue.current is not None):
                self._pool.drain(instance)
                return
            before = queue.current
            queue.serve_from(instance, self._clock())
            if before is not None:
                self._pool.drain(before)
            self._pool.evict_surplus(queue)

    def _wait_until_closed(self, evicted: list[Instance]) -> None:
        for instance in evicted:
            instance.wait_until_closed(2 * self._capacity.drain_s)

    def _has_files(self, queue: BaseQueue, request: PendingRequest) -> bool:
        return self._store.has_blobs((queue.base, *request.adapters))

    def _context_limit(self, base: str) -> int:
        if not self._store.has_blob(base):  # Deleted meanwhile.
            return NO_CONTEXT_LIMIT
        return self._capacity.context_limit(self._store.weights(base).context_length)
