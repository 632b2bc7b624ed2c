"""All instances in memory: which one serves each base, which one is evicted, which ones drain."""

from collections.abc import Callable

from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.runners.base_queue import BaseQueue
from pipeline.hosting.server.runners.capacity import Capacity
from pipeline.hosting.server.runners.instance import Instance


class InstancePool:
    """The queues of all bases and the retired instances. The caller holds the scheduler's lock."""

    def __init__(self, store: Store, capacity: Capacity, clock: Callable[[], float]) -> None:
        self._store = store
        self._capacity = capacity
        self._clock = clock
        self._queues: dict[tuple[str, bool], BaseQueue] = {}
        self._retired: list[Instance] = []

    def queue(self, base: str, *, embeds: bool) -> BaseQueue:
        """Return a base's queue, created on first use."""
        queue = self._queues.get((base, embeds))
        if queue is None:
            queue = self._queues[base, embeds] = BaseQueue(base, self._clock, embeds=embeds)
        return queue

    def queues(self) -> list[BaseQueue]:
        """Return all queues."""
        return list(self._queues.values())

    def retired(self) -> list[Instance]:
        """Return the retired instances; some of them may be closed by now."""
        return list(self._retired)

    def loaded(self) -> list[tuple[str, int]]:
        """Return (model served last, tokens of context) of each runner that serves completions."""
        return [
            (queue.current.model, queue.current.runner.context)
            for queue in self._queues.values()
            if queue.current is not None and not queue.embeds
        ]

    def loaded_adapters(self) -> int:
        """Return how many adapters the serving runners hold together."""
        current = [queue.current for queue in self._queues.values() if queue.current is not None]
        return sum(len(each.runner.adapters) for each in current)

    def is_stale(self, queue: BaseQueue) -> bool:
        """Say whether the current instance holds a base or an adapter that was deleted."""
        if queue.current is None:
            return False
        return not self._store.has_blobs((queue.base, *queue.current.runner.adapters))

    def retire(self, queue: BaseQueue) -> Instance | None:
        """Take the current instance out of service and return it."""
        instance, queue.current = queue.current, None
        if instance is not None:
            self.drain(instance)
        return instance

    def drain(self, instance: Instance) -> None:
        """Drain and close an instance that is not current any more, or never was."""
        self._retired = [each for each in self._retired if not each.wait_until_closed(0)]
        self._retired.append(instance)
        instance.retire(self._capacity.drain_s)

    def evict_surplus(self, queue: BaseQueue) -> list[Instance]:
        """Retire the least recently used instances until this queue's fits; return them."""
        others = [
            (other.current.used_at, other)
            for other in self._queues.values()
            if other is not queue and other.current is not None
        ]
        others.sort(key=lambda pair: pair[0])
        surplus = max(len(others) - (self._capacity.max_runners - 1), 0)
        return [gone for _, other in others[:surplus] if (gone := self.retire(other))]

    def evict_for(self, queue: BaseQueue) -> list[Instance]:
        """Retire what must leave memory before a load without overlap; return it."""
        own = self.retire(queue)
        return [*((own,) if own else ()), *self.evict_surplus(queue)]

    def remove_idle_queues(self) -> None:
        """Remove the queues of deleted bases that have no requests and load nothing."""
        for key, queue in list(self._queues.items()):
            is_idle = queue.load_thread is None and not queue.pending and queue.current is None
            if is_idle and not self._store.has_blob(queue.base):
                del self._queues[key]
