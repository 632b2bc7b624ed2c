"""Admits requests to loaded runners, and loads the runners they wait for.

Each base has at most one serving runner per use, completion or embedding. llama.cpp accepts
adapters only when it starts, so the adapters of a base are loaded together, and a request for an
adapter that is not among them (a persona just trained) causes a new load. The old runner serves
its own adapters until the new one is ready; then it is drained and closed. Requests that arrive
during a load share the next one.

A new persona is not loaded ahead of its first request. Only that request waits for the load.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.manifest import Manifest
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.runners.adapter_choice import AdapterChoice
from pipeline.hosting.server.runners.capacity import Capacity
from pipeline.hosting.server.runners.instance_pool import InstancePool
from pipeline.hosting.server.runners.load_report import LoadReport
from pipeline.hosting.server.runners.load_worker import REPLACED, LoadWorker
from pipeline.hosting.server.runners.loader import Loader
from pipeline.hosting.server.runners.pending_request import PendingRequest
from pipeline.hosting.server.runners.runner import LoadRunner, Runner

_EMBED_CONTEXT: Final = 2048
_SHUTTING_DOWN: Final = "this server is about to end; ask again"


class Scheduler:
    """Owns the loaded runners. Every method may be called from any thread."""

    def __init__(
        self,
        store: Store,
        load: LoadRunner,
        capacity: Capacity,
        *,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
        on_load: Callable[[LoadReport], None] = lambda _load: None,
    ) -> None:
        self._store = store
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.RLock()
        self._pool = InstancePool(store, capacity, clock)
        self._adapters = AdapterChoice(store, capacity.max_adapters)
        self._loads = LoadWorker(
            store,
            Loader(store, load, capacity, self._adapters, self._lock, threads=threads),
            capacity,
            pool=self._pool,
            adapters=self._adapters,
            lock=self._lock,
            clock=clock,
            on_load=on_load,
        )
        self._is_closed = False

    @contextmanager
    def acquire(self, model: Manifest, context: int) -> Iterator[Runner]:
        """Yield a runner with the model's base and adapters; it stays open in the context.

        Waits for a load if no suitable runner is loaded. Requests that an already loaded runner
        can serve do not wait for it.

        Args:
            model: the model to be served.
            context: tokens of context that the request asks for.

        Raises:
            Refusal: 500, llama.cpp cannot load the files; 503, the backoff forbids another
                attempt, the model was replaced, or this server is shutting down.
        """
        with self._admitted(model, model.adapters, context, embeds=False) as runner:
            yield runner

    @contextmanager
    def acquire_embedder(self, model: Manifest) -> Iterator[Runner]:
        """Yield a runner that embeds with the model's base, without its adapters.

        It counts against the capacity like any other runner.

        Raises:
            Refusal: as `acquire`.
        """
        with self._admitted(model, (), _EMBED_CONTEXT, embeds=True) as runner:
            yield runner

    def drop(self, digests: frozenset[str]) -> None:
        """Stop serving deleted blobs; requests in flight end first.

        A runner that loses one of several adapters serves the others until a runner without the
        deleted one is ready.
        """
        with self._lock:
            self._adapters.forget(digests)
            for queue in self._pool.queues():
                holds = queue.current and digests & set(queue.current.runner.adapters)
                if queue.base in digests or (holds and not self._capacity.overlaps):
                    self._pool.retire(queue)
                elif holds:
                    self._loads.ensure_thread(queue)
            self._pool.remove_idle_queues()

    def loaded(self) -> list[tuple[str, int]]:
        """Return (model served last, tokens of context) of each runner that serves completions."""
        with self._lock:
            return self._pool.loaded()

    def loaded_adapters(self) -> int:
        """Return how many adapters the serving runners hold together."""
        with self._lock:
            return self._pool.loaded_adapters()

    def waiting(self) -> int:
        """Return how many requests wait for a runner."""
        with self._lock:
            return sum(len(queue.pending) for queue in self._pool.queues())

    def close(self) -> None:
        """Refuse new requests, wait for loads and requests in flight, close all runners.

        Waits twice `drain_s` at most.
        """
        deadline = self._clock() + 2 * self._capacity.drain_s
        with self._lock:
            self._is_closed = True
            self._loads.stop()
            for queue in self._pool.queues():
                self._pool.retire(queue)
                queue.refuse(Refusal(503, _SHUTTING_DOWN))
            load_threads = [queue.load_thread for queue in self._pool.queues() if queue.load_thread]
        for load_thread in load_threads:
            load_thread.join(max(deadline - self._clock(), 0.0))
        with self._lock:
            retired = self._pool.retired()
        for instance in retired:
            instance.wait_until_closed(max(deadline - self._clock(), 0.0))

    @contextmanager
    def _admitted(
        self, model: Manifest, adapters: tuple[str, ...], context: int, *, embeds: bool
    ) -> Iterator[Runner]:
        if not self._store.has_blob(model.base):
            raise Refusal(503, REPLACED)
        limit = self._capacity.context_limit(self._store.weights(model.base).context_length)
        is_exact = self._capacity.max_adapters == 1
        request = PendingRequest(model.name, adapters, min(context, limit), is_exact=is_exact)
        with self._lock:
            self._admit(model.base, request, embeds=embeds)
        instance = request.wait()
        try:
            yield instance.runner
        finally:
            with self._lock:
                instance.leave()

    def _admit(self, base: str, request: PendingRequest, *, embeds: bool) -> None:
        """Admit a request, or queue it for an instance that is about to be loaded.

        The caller holds the lock.
        """
        if self._is_closed:
            raise Refusal(503, _SHUTTING_DOWN)
        now = self._clock()
        self._adapters.note_asked(request.adapters, now)
        queue = self._pool.queue(base, embeds=embeds)
        if crashed := queue.remove_crashed():
            self._pool.drain(crashed)
        if queue.current is not None and request.fits(queue.current):
            request.grant(queue.current, now)
        else:
            if not self._store.has_blobs((base, *request.adapters)):
                raise Refusal(503, REPLACED)
            queue.check_backoff(request.adapters)
            queue.pending.append(request)
            self._loads.ensure_thread(queue)
