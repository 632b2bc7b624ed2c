"""Which llama.cpp are loaded: at most a few, one a base, with the adapters that are in use.

llama.cpp takes adapters only when it starts. So those known to a base are loaded together, and
one that is missing (a persona just trained) makes a new instance. Until that is ready the old one
goes on answering for those it has; then it is drained and closed. Several new personas that come
while an instance starts are taken along by the next one together.

A new persona is not loaded ahead of its first question: that question alone waits for it, nobody
else does, and of several made in a row all come in with one start.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pipeline.hosting.server.adapters import AdapterChoice
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.instances import Instance
from pipeline.hosting.server.residency import DEFAULT_CONTEXT, Load, Residency
from pipeline.hosting.server.rooms import Room, Ticket
from pipeline.hosting.server.runner import LoadRunner, Runner
from pipeline.hosting.server.shapes import Manifest
from pipeline.hosting.server.starts import Plan, start_runner
from pipeline.hosting.server.store import Store

__all__ = ["DEFAULT_CONTEXT", "Load", "Residency", "Runners"]

_EMBED_CONTEXT = 2048


class Runners:
    """The loaded runners. Every method may be called from any thread."""

    def __init__(
        self,
        store: Store,
        load: LoadRunner,
        residency: Residency,
        *,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
        on_load: Callable[[Load], None] = lambda _load: None,
    ) -> None:
        self._store = store
        self._load_runner = load
        self._residency = residency
        self._threads = threads
        self._clock = clock
        self._on_load = on_load
        self._lock = threading.RLock()
        self._rooms: dict[str, Room] = {}
        self._embedders: dict[str, Instance] = {}
        self._embedder_lock = threading.Lock()
        self._adapters = AdapterChoice(store, residency.max_adapters)
        self._retired: list[Instance] = []
        self._is_closed = False

    @contextmanager
    def acquire(self, model: Manifest, context: int) -> Iterator[Runner]:
        """Give a runner that has the model's base and adapters, counted as in use meanwhile.

        Waits for one where there is none, and nobody who needs no new one waits along.

        Raises:
            Refusal: 500, llama.cpp cannot load them; 503, it failed lately, or this is the end.
        """
        instance = self._enter(model, context)
        try:
            yield instance.runner
        finally:
            with self._lock:
                instance.leave()

    @contextmanager
    def acquire_embedder(self, model: Manifest) -> Iterator[Runner]:
        """Give a runner that embeds with the model's base, without its adapters.

        Raises:
            Refusal: 500, llama.cpp cannot load it.
        """
        with self._embedder_lock:
            instance = self._embedders.get(model.base)
            if instance is None or instance.is_retired or instance.runner.fault() is not None:
                instance = Instance(self._load_embedder(model), model.name, self._clock())
                self._embedders[model.base] = instance
            with self._lock:
                instance.admit(model.name, self._clock())
        try:
            yield instance.runner
        finally:
            with self._lock:
                instance.leave()

    def drop(self, digests: frozenset[str]) -> None:
        """Let go of these blobs, in memory too; requests under way end first.

        Where one of many adapters goes, the others answer until a runner without it is ready.
        """
        with self._lock:
            self._adapters.forget(digests)
            for base, room in self._rooms.items():
                if base in digests or (not self._residency.overlaps and self._holds(room, digests)):
                    self._retire(room)
                elif self._holds(room, digests):
                    self._ensure_start(base, room)
            for base in digests & self._embedders.keys():
                self._note_retired(self._embedders.pop(base))

    def loaded(self) -> list[tuple[str, int]]:
        """Return (model used last, context) of each runner."""
        with self._lock:
            return [(each.model, each.runner.context) for each in self._current()]

    def loaded_adapters(self) -> int:
        """Return how many adapters are loaded and answer."""
        with self._lock:
            return sum(len(each.runner.adapters) for each in self._current())

    def close(self) -> None:
        """Admit nobody any more, wait for the requests under way, close all runners."""
        with self._lock:
            self._is_closed = True
            for room in self._rooms.values():
                self._retire(room)
                self._refuse_all(room)
            for instance in self._embedders.values():
                self._note_retired(instance)
            retired = list(self._retired)
        deadline = self._clock() + 2 * self._residency.drain_s
        for instance in retired:
            instance.wait_until_closed(max(deadline - self._clock(), 0.0))

    # Under the lock -------------------------------------------------------------------------

    def _enter(self, model: Manifest, context: int) -> Instance:
        ticket = Ticket(model, self._bounded_context(model, context))
        with self._lock:
            if self._is_closed:
                raise Refusal(503, "this server is about to end; ask again")
            now = self._clock()
            self._adapters.note_asked(model.adapters, now)
            room = self._rooms.setdefault(model.base, Room(self._clock))
            if dead := room.take_dead():
                self._note_retired(dead)
            if room.current is not None and ticket.fits(room.current):
                ticket.give(room.current, now)
            else:
                room.check(model)
                room.tickets.append(ticket)
                self._ensure_start(model.base, room)
        return ticket.wait()

    def _ensure_start(self, base: str, room: Room) -> None:
        if not room.is_starting and not self._is_closed:
            room.is_starting = True
            name = f"start-{base.removeprefix('sha256:')[:8]}"
            threading.Thread(target=self._fill, args=(base, room), name=name, daemon=True).start()

    def _current(self) -> list[Instance]:
        return [room.current for room in self._rooms.values() if room.current is not None]

    def _retire(self, room: Room) -> Instance | None:
        instance = room.current
        if instance is not None:
            room.current = None
            self._note_retired(instance)
        return instance

    def _note_retired(self, instance: Instance) -> None:
        instance.retire(self._residency.drain_s)
        self._retired = [each for each in self._retired if not each.wait_until_closed(0)]
        self._retired.append(instance)

    def _refuse_all(self, room: Room) -> None:
        for ticket in room.tickets:
            ticket.refuse(Refusal(503, "this server is about to end; ask again"))
        room.tickets = []

    @staticmethod
    def _holds(room: Room, digests: frozenset[str]) -> bool:
        return room.current is not None and bool(digests & set(room.current.runner.adapters))

    def _is_stale(self, room: Room) -> bool:
        """Say whether the current instance holds an adapter that was removed."""
        held = room.current.runner.adapters if room.current else ()
        return any(not self._store.has_blob(digest) for digest in held)

    def _retire_least_used(self, besides: Room | None = None) -> list[Instance]:
        """Make room for one more base; return what was retired."""
        others = [r for r in self._rooms.values() if r is not besides and r.current is not None]
        others.sort(key=lambda room: room.current.used_at if room.current else 0.0)
        surplus = len(others) - (self._residency.max_runners - 1)
        return [gone for room in others[: max(surplus, 0)] if (gone := self._retire(room))]

    def _bounded_context(self, model: Manifest, asked: int) -> int:
        made_for = self._store.weights(model.base).context_length
        limits = [limit for limit in (made_for, self._residency.max_context) if limit]
        return min((asked, *limits))

    # In a room's starting thread ------------------------------------------------------------

    def _fill(self, base: str, room: Room) -> None:
        """Start instances until nobody waits for one any more."""
        while (plan := self._next_plan(base, room)) is not None:
            began = self._clock()
            error: str | None = None
            adapters = plan.adapters
            try:
                runner = start_runner(plan, partial(self._load, plan), self._adapters, self._lock)
            except Refusal as refusal:
                error = refusal.sentence
                self._give_up(room, plan, refusal)
            except Exception as fault:  # the thread's edge: whoever waits must hear of it
                error = type(fault).__name__
                self._give_up(room, plan, Refusal(500, f"the model cannot be loaded: {error}"))
            else:
                adapters = runner.adapters
                self._take_over(room, Instance(runner, self._name(plan), self._clock()))
            seconds = self._clock() - began
            self._on_load(Load(base=base, adapters=len(adapters), seconds=seconds, error=error))

    def _next_plan(self, base: str, room: Room) -> Plan | None:
        with self._lock:
            adapters = self._adapters.choose(base, [ticket.model for ticket in room.tickets])
            is_for_nobody = not adapters or not self._store.has_blob(base)
            if not room.tickets and self._is_stale(room) and is_for_nobody:
                self._retire(room)
            if self._is_closed or (not room.tickets and not self._is_stale(room)):
                room.is_starting = False
                return None
            first = room.tickets[0] if room.tickets else None
            context = self._context_of(base, room)
            ending: list[Instance] = []
            if not self._residency.overlaps:
                ending = [gone for gone in (self._retire(room),) if gone]
                ending += self._retire_least_used(besides=room)
        for instance in ending:
            instance.wait_until_closed(2 * self._residency.drain_s)
        return Plan(base, adapters, first, context)

    def _context_of(self, base: str, room: Room) -> int:
        made_for = self._store.weights(base).context_length if self._store.has_blob(base) else 0
        usual = min(self._residency.context, made_for or self._residency.context)
        # As much as the one before, or two who ask for different ones would take turns for ever.
        before = room.current.runner.context if room.current else 0
        return max((usual, before, *(ticket.context for ticket in room.tickets)))

    def _load(self, plan: Plan, digests: Sequence[str]) -> Runner:
        return self._load_runner(
            self._store.blob_path(plan.base),
            {digest: self._store.blob_path(digest) for digest in digests},
            context=plan.context,
            slots=self._residency.slots,
            threads=self._threads,
        )

    def _load_embedder(self, model: Manifest) -> Runner:
        return self._load_runner(
            self._store.blob_path(model.base),
            {},
            context=self._bounded_context(model, _EMBED_CONTEXT),
            slots=1,
            threads=self._threads,
            embeds=True,
            pools_last_token=not self._store.weights(model.base).has_pooling,
        )

    def _take_over(self, room: Room, instance: Instance) -> None:
        with self._lock:
            before = room.current
            if self._is_closed:
                self._note_retired(instance)
                return
            room.seat(instance, self._clock())
            if before is not None:
                self._note_retired(before)
            self._retire_least_used(besides=room)

    def _give_up(self, room: Room, plan: Plan, refusal: Refusal) -> None:
        with self._lock:
            if plan.first is not None:
                room.refuse(plan.first, refusal)
            else:
                # What was to go must go; whoever asks next waits for a new one.
                self._retire(room)

    @staticmethod
    def _name(plan: Plan) -> str:
        return plan.first.model.name if plan.first else ""
