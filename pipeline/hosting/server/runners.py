"""Which llama.cpp are loaded: at most a few, one a base, with the adapters that are in use.

llama.cpp takes adapters only when it starts. So those known to a base are loaded together, and
one that is missing (a persona just trained) makes a new instance. Until that is ready the old one
goes on answering for those it has; then it is drained and closed. Several new personas that come
while an instance starts are taken along by the next one together.

A new persona is not loaded ahead of its first question: that question alone waits for it, nobody
else does, and of several made in a row all come in with one start.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pipeline.hosting.server.adapters import AdapterChoice
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.instances import Instance
from pipeline.hosting.server.residency import DEFAULT_CONTEXT, Load, Residency
from pipeline.hosting.server.residents import Residents
from pipeline.hosting.server.rooms import Room, Ticket
from pipeline.hosting.server.runner import LoadRunner, Runner
from pipeline.hosting.server.shapes import Manifest
from pipeline.hosting.server.starts import Plan, Started, Starter
from pipeline.hosting.server.store import Store

__all__ = ["DEFAULT_CONTEXT", "Load", "Residency", "Runners"]

_EMBED_CONTEXT: Final = 2048
_ENDING: Final = "this server is about to end; ask again"
# Who asks with a manifest that was read just before it was replaced.
_REPLACED: Final = "the model was replaced or removed; ask again"
_LOG = logging.getLogger(__name__)


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
        self._residency = residency
        self._clock = clock
        self._on_load = on_load
        self._lock = threading.RLock()
        self._residents = Residents(store, residency, clock)
        self._adapters = AdapterChoice(store, residency.max_adapters)
        self._starter = Starter(store, load, residency, self._adapters, self._lock, threads=threads)
        self._is_closed = False

    @contextmanager
    def acquire(self, model: Manifest, context: int) -> Iterator[Runner]:
        """Give a runner that has the model's base and adapters, counted as in use meanwhile.

        Waits for one where there is none, and nobody who needs no new one waits along.

        Raises:
            Refusal: 500, llama.cpp cannot load them; 503, it failed lately, or this is the end.
        """
        with self._admitted(model, model.adapters, context, embeds=False) as runner:
            yield runner

    @contextmanager
    def acquire_embedder(self, model: Manifest) -> Iterator[Runner]:
        """Give a runner that embeds with the model's base, without its adapters.

        It is one more runner: counted, replaced and closed as the others are.

        Raises:
            Refusal: as `acquire`.
        """
        with self._admitted(model, (), _EMBED_CONTEXT, embeds=True) as runner:
            yield runner

    def drop(self, digests: frozenset[str]) -> None:
        """Let go of these blobs, in memory too; requests under way end first.

        Where one of many adapters goes, the others answer until a runner without it is ready.
        """
        with self._lock:
            self._adapters.forget(digests)
            for room in self._residents.rooms():
                holds = room.current and digests & set(room.current.runner.adapters)
                if room.base in digests or (holds and not self._residency.overlaps):
                    self._residents.retire(room)
                elif holds:
                    self._ensure_start(room)
            self._residents.forget_idle()

    def loaded(self) -> list[tuple[str, int]]:
        """Return (model used last, context) of each runner that answers."""
        with self._lock:
            return self._residents.loaded()

    def loaded_adapters(self) -> int:
        """Return how many adapters are loaded and answer."""
        with self._lock:
            return self._residents.loaded_adapters()

    def waiting(self) -> int:
        """Return how many requests wait for a runner."""
        with self._lock:
            return sum(len(room.tickets) for room in self._residents.rooms())

    def close(self) -> None:
        """Admit nobody any more, wait for starts and requests under way, close all runners."""
        deadline = self._clock() + 2 * self._residency.drain_s
        with self._lock:
            self._is_closed = True
            for room in self._residents.rooms():
                self._residents.retire(room)
                room.dismiss(Refusal(503, _ENDING))
            starters = [room.starter for room in self._residents.rooms() if room.starter]
        for starter in starters:
            starter.join(max(deadline - self._clock(), 0.0))
        with self._lock:
            retired = self._residents.retired()
        for instance in retired:
            instance.wait_until_closed(max(deadline - self._clock(), 0.0))

    @contextmanager
    def _admitted(
        self, model: Manifest, adapters: tuple[str, ...], context: int, *, embeds: bool
    ) -> Iterator[Runner]:
        if not self._store.has_blob(model.base):
            raise Refusal(503, _REPLACED)
        limit = self._context_limit(model.base)
        is_exact = self._residency.max_adapters == 1
        ticket = Ticket(model.name, adapters, min(context, limit), is_exact=is_exact)
        with self._lock:
            self._admit(model.base, ticket, embeds=embeds)
        instance = ticket.wait()
        try:
            yield instance.runner
        finally:
            with self._lock:
                instance.leave()

    # Under the lock -------------------------------------------------------------------------

    def _admit(self, base: str, ticket: Ticket, *, embeds: bool) -> None:
        """Let a request in, or let it wait for an instance that is about to be started."""
        if self._is_closed:
            raise Refusal(503, _ENDING)
        now = self._clock()
        self._adapters.note_asked(ticket.adapters, now)
        room = self._residents.room(base, embeds=embeds)
        if dead := room.take_dead():
            self._residents.note_retired(dead)
        if room.current is not None and ticket.fits(room.current):
            ticket.give(room.current, now)
        else:
            if not self._has_files(base, ticket):
                raise Refusal(503, _REPLACED)
            room.check(ticket.adapters)
            room.tickets.append(ticket)
            self._ensure_start(room)

    def _ensure_start(self, room: Room) -> None:
        if room.starter is not None or self._is_closed:
            return
        name = f"start-{room.base.removeprefix('sha256:')[:8]}"
        room.starter = threading.Thread(target=self._fill, args=(room,), name=name, daemon=True)
        try:
            room.starter.start()
        except RuntimeError:
            room.starter = None
            room.dismiss(Refusal(503, "this machine has no thread left to load a model; ask again"))

    def _has_files(self, base: str, ticket: Ticket) -> bool:
        return all(map(self._store.has_blob, (base, *ticket.adapters)))

    def _context_limit(self, base: str) -> int:
        made_for = self._store.weights(base).context_length
        limits = [limit for limit in (made_for, self._residency.max_context) if limit]
        return min((2**31, *limits))

    # In a room's starting thread ------------------------------------------------------------

    def _fill(self, room: Room) -> None:
        """Start instances until nobody waits for one any more."""
        try:
            while (plan := self._next_plan(room)) is not None:
                self._start(room, plan)
        except Exception as fault:  # the thread's edge: whoever waits must hear of it
            name = type(fault).__name__
            _LOG.exception("the start of %s failed: %s", room.base, name)
            with self._lock:
                room.starter = None
                room.refuse_all(Refusal(500, f"the model cannot be loaded: {name}"))

    def _next_plan(self, room: Room) -> Plan | None:
        with self._lock:
            room.dismiss(
                Refusal(503, _REPLACED), lambda ticket: not self._has_files(room.base, ticket)
            )
            first = room.tickets[0] if room.tickets else None
            if self._is_closed or (first is None and not self._residents.is_stale(room)):
                room.starter = None
                return None
            waiting = [ticket.adapters for ticket in room.tickets]
            adapters = () if room.embeds else self._adapters.choose(room.base, waiting)
            if first is None and not (adapters and self._store.has_blob(room.base)):
                self._residents.retire(room)
                room.starter = None
                return None
            plan = Plan(
                base=room.base,
                embeds=room.embeds,
                adapters=adapters,
                own=first.adapters if first else (),
                model=first.model if first else "",
                context=self._context_of(room),
            )
            is_alone = room.is_single or not self._residency.overlaps
            ending = self._residents.retire_for(room) if is_alone else []
        self._wait_for_end_of(ending)
        return plan

    def _context_of(self, room: Room) -> int:
        asked = [ticket.context for ticket in room.tickets]
        if asked and (room.embeds or self._residency.max_adapters == 1):
            return asked[0]
        limit = self._context_limit(room.base) if self._store.has_blob(room.base) else 2**31
        # As much as the one before, or two who ask for different ones would take turns for ever.
        before = room.current.runner.context if room.current else 0
        return max((min(self._residency.context, limit), before, *asked))

    def _start(self, room: Room, plan: Plan) -> None:
        began = self._clock()
        error: str | None = None
        adapters, is_down = plan.adapters, False
        try:
            started = self._start_somehow(room, plan)
        except Refusal as refusal:
            error, is_down = refusal.sentence, True
            with self._lock:
                # With nobody waiting: what was to go must go; whoever asks next waits.
                self._residents.retire(room)
                room.refuse_all(refusal)
        else:
            adapters = started.runner.adapters
            if started.refusal is not None:
                error = started.refusal.sentence
            self._take_over(room, plan, started)
        seconds = self._clock() - began
        self._on_load(
            Load(
                base=plan.base,
                adapters=len(adapters),
                seconds=seconds,
                error=error,
                is_down=is_down,
            )
        )

    def _start_somehow(self, room: Room, plan: Plan) -> Started:
        """Start beside what is loaded; where there is no room for that, in its place."""
        try:
            return self._starter.start(plan)
        except Refusal:
            with self._lock:
                ending = self._residents.retire_for(room)
            if not ending:
                raise
            self._wait_for_end_of(ending)
            started = self._starter.start(plan)
            with self._lock:
                room.note_single()
            return started

    def _take_over(self, room: Room, plan: Plan, started: Started) -> None:
        instance = Instance(started.runner, plan.model, self._clock())
        with self._lock:
            if started.refusal is not None:
                room.refuse(plan.own, started.refusal)
            if self._is_closed or (started.refusal is not None and room.current is not None):
                self._residents.note_retired(instance)
                return
            before = room.current
            room.seat(instance, self._clock())
            if before is not None:
                self._residents.note_retired(before)
            self._residents.retire_surplus(room)

    def _wait_for_end_of(self, ending: list[Instance]) -> None:
        for instance in ending:
            instance.wait_until_closed(2 * self._residency.drain_s)
