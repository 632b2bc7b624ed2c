"""All bases that are in memory, who gives way to whom, and what is on its way out."""

from collections.abc import Callable

from pipeline.hosting.server.instances import Instance
from pipeline.hosting.server.residency import Residency
from pipeline.hosting.server.rooms import Room
from pipeline.hosting.server.store import Store


class Residents:
    """The rooms, and the instances that were retired. Called with the owner's lock held."""

    def __init__(self, store: Store, residency: Residency, clock: Callable[[], float]) -> None:
        self._store = store
        self._residency = residency
        self._clock = clock
        self._rooms: dict[tuple[str, bool], Room] = {}
        self._retired: list[Instance] = []

    def room(self, base: str, *, embeds: bool) -> Room:
        """Return a base's room, an empty one if it has none yet."""
        room = self._rooms.get((base, embeds))
        if room is None:
            room = self._rooms[base, embeds] = Room(base, self._clock, embeds=embeds)
        return room

    def rooms(self) -> list[Room]:
        """Return all rooms."""
        return list(self._rooms.values())

    def retired(self) -> list[Instance]:
        """Return what was retired and may not be closed yet."""
        return list(self._retired)

    def loaded(self) -> list[tuple[str, int]]:
        """Return (model used last, context) of each runner that answers."""
        return [
            (room.current.model, room.current.runner.context)
            for room in self._rooms.values()
            if room.current is not None and not room.embeds
        ]

    def loaded_adapters(self) -> int:
        """Return how many adapters are loaded and answer."""
        current = [room.current for room in self._rooms.values() if room.current is not None]
        return sum(len(each.runner.adapters) for each in current)

    def is_stale(self, room: Room) -> bool:
        """Say whether the current instance holds a base or an adapter that was removed."""
        if room.current is None:
            return False
        held = (room.base, *room.current.runner.adapters)
        return not all(map(self._store.has_blob, held))

    def retire(self, room: Room) -> Instance | None:
        """Let the current instance admit nobody any more; return it."""
        instance, room.current = room.current, None
        if instance is not None:
            self.note_retired(instance)
        return instance

    def note_retired(self, instance: Instance) -> None:
        """Drain and close an instance that is not, or never was, a current one."""
        self._retired = [each for each in self._retired if not each.wait_until_closed(0)]
        self._retired.append(instance)
        instance.retire(self._residency.drain_s)

    def retire_surplus(self, room: Room) -> list[Instance]:
        """Retire what was used longest ago, so that there is room for this one; return it."""
        others = [
            (other.current.used_at, other)
            for other in self._rooms.values()
            if other is not room and other.current is not None
        ]
        others.sort(key=lambda pair: pair[0])
        surplus = max(len(others) - (self._residency.max_runners - 1), 0)
        return [gone for _, other in others[:surplus] if (gone := self.retire(other))]

    def retire_for(self, room: Room) -> list[Instance]:
        """Retire what a start without overlap must not find in memory; return it."""
        own = self.retire(room)
        return [*((own,) if own else ()), *self.retire_surplus(room)]

    def forget_idle(self) -> None:
        """Forget the rooms of bases that were removed, once nothing is in them."""
        for key, room in list(self._rooms.items()):
            is_idle = room.starter is None and not room.tickets and room.current is None
            if is_idle and not self._store.has_blob(room.base):
                del self._rooms[key]
