"""What is kept of each elder's earlier work, and what is removed (docs/decisions/0011).

The rule is a function of what was seen: it removes what no released version, no unfinished job
and no newest data set needs. What serves or can be rolled back to always stays; so does all that
neither ledger nor registry knows of, unless it is old.

It is applied in an order in which a death leaves nothing but garbage for the next round: the
registry first, so that nobody is sent to what is about to go, then Ollama, then the disk.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress

from config.settings import RetentionSettings
from pipeline.hosting.port import ModelHost
from pipeline.ledger.ledger import Ledger
from pipeline.versions.inventory import Inventory, Item
from pipeline.versions.latest import bring_latest
from pipeline.versions.registry import DatasetRegistry, ModelRegistry
from schemas.base import Frozen
from schemas.documents import ElderModel, ModelVersion
from schemas.errors import ModelNotReady
from schemas.identifiers import (
    current_tag,
    handed_over,
    model_name,
    model_tag,
    read_candidate,
)

_TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
_HOUR_S = 3600.0
_LOOKED_BACK = 20


class Seen(Frozen):
    """All that there is of one elder, as the rule sees it."""

    model: ElderModel
    jobs: dict[str, str]
    """The ledger's jobs of this elder: their status by id."""
    newest_dataset: str | None
    tags: tuple[str, ...]
    """This elder's names in Ollama."""
    items: tuple[Item, ...]
    now_s: float
    """Unix time."""


class Removal(Frozen):
    """What is to go of one elder's work; `current` is the version that answered meanwhile."""

    elder_id: str
    current: int | None
    versions: tuple[int, ...]
    forms: tuple[int, ...] = ()
    """The versions that stay, and whose merged file goes: it can be made from the adapter."""
    tags: tuple[str, ...]
    items: tuple[Item, ...]

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to do."""
        return not (self.versions or self.forms or self.tags or self.items)

    @property
    def size_bytes(self) -> int:
        """How much room the files take."""
        return sum(item.size_bytes for item in self.items)

    def counts(self) -> dict[str, int]:
        """Count what is to go, by kind."""
        counts = Counter[str](item.kind for item in self.items)
        made = {"version": len(self.versions), "form": len(self.forms), "tag": len(self.tags)}
        return {**made, **counts}


# The rule -------------------------------------------------------------------------------------


def decide(seen: Seen, settings: RetentionSettings) -> Removal:
    """Say what may go. Depends on nothing but what it is given."""
    kept = [v for v in seen.model.versions if v.version in _kept_versions(seen, settings)]
    heavy = [v for v in kept if v.ready and v.forms and not _may_stay_merged(v, seen)]
    served = [v for v in kept if v not in heavy]
    return Removal(
        elder_id=seen.model.id,
        current=seen.model.current,
        versions=tuple(v.version for v in seen.model.versions if v not in kept),
        forms=tuple(v.version for v in heavy),
        tags=tuple(tag for tag in seen.tags if _may_tag_go(tag, seen, served)),
        items=tuple(_removable(seen, kept, settings)),
    )


def _kept_versions(seen: Seen, settings: RetentionSettings) -> set[int]:
    """The one that answers, the newest released ones, and the newest before it.

    A rollback without a number goes to the one before; the count holds for both, so that after a
    rollback there is a way back and a way forth.
    """
    current = seen.model.current
    released = sorted(v.version for v in seen.model.versions if v.ready)
    earlier = [number for number in released if current is not None and number < current]
    kept = {*released[-settings.versions :], *earlier[-settings.versions :]}
    opened = {v.version for v in seen.model.versions if not v.ready and not _is_over(v, seen)}
    return kept | opened | ({current} if current is not None else set())


def _may_stay_merged(version: ModelVersion, seen: Seen) -> bool:
    """Whether a version keeps its form: a merged file is as large as the whole base.

    So only what answers and the one before it have theirs. A job that is about to make a version
    answer needs it.
    """
    if version.form != "merged" or _has_open_job(seen):
        return True
    nearest = (seen.model.serving, seen.model.previous)
    return any(near is not None and near.version == version.version for near in nearest)


def _is_over(version: ModelVersion, seen: Seen) -> bool:
    """Say whether a version that was never released can no longer be."""
    return seen.jobs.get(version.job_id) in _TERMINAL


def _has_open_job(seen: Seen) -> bool:
    return any(status not in _TERMINAL for status in seen.jobs.values())


def _may_tag_go(tag: str, seen: Seen, kept: list[ModelVersion]) -> bool:
    """Say whether an Ollama name belongs to a version that is gone or goes."""
    elder_id = seen.model.id
    if tag == current_tag(elder_id) or not tag.startswith(f"{model_name(elder_id)}:"):
        return False
    if handed_over(tag) is not None:
        return True  # Whoever is still at it makes another one.
    candidate = read_candidate(tag)
    if candidate is not None:
        # A worker without a ledger may be at it where no job is known, one with it where one runs.
        opened = {v.version for v in kept if not v.ready}
        return candidate[0] not in opened and not _has_open_job(seen)
    ours = {model_tag(elder_id, number) for number in range(1, seen.model.next_version)}
    return tag in ours and tag not in {v.tag for v in kept}


def _removable(seen: Seen, kept: list[ModelVersion], settings: RetentionSettings) -> Iterable[Item]:
    adapters = _kept_adapters(seen, kept)
    trained_on = {version.dataset_sha256 for version in kept}
    needed = {*trained_on, seen.newest_dataset, _newest_on_disk(seen)}
    opened = {v.job_id for v in kept if not v.ready}
    for item in seen.items:
        is_old = seen.now_s - item.modified_ns / 1e9 >= settings.grace_h * _HOUR_S
        if item.kind == "dataset":
            # A job names its data set only once it has built it.
            if is_old and item.sha256 not in needed and not _has_open_job(seen):
                yield item
            continue
        status = seen.jobs.get(item.job_id) if item.job_id is not None else None
        is_held = item.job_id in opened or (status is not None and status not in _TERMINAL)
        if is_held or item in adapters:
            continue
        # What was set aside stays for whoever looks into it, and a strange job may be running.
        if is_old or (item.kind != "remains" and status in _TERMINAL):
            yield item


def _kept_adapters(seen: Seen, kept: list[ModelVersion]) -> list[Item]:
    """The adapters that kept versions were made from; all of a job's where none has the hash."""
    found: list[Item] = []
    for version in kept:
        of_job = [i for i in seen.items if i.kind == "adapter" and i.job_id == version.job_id]
        found += [i for i in of_job if i.sha256 == version.gguf_sha256] or of_job
    return found


def _newest_on_disk(seen: Seen) -> str | None:
    """An export is in no collection; the last one is still somebody's newest."""
    datasets = [item for item in seen.items if item.kind == "dataset"]
    return max(datasets, key=lambda i: (i.modified_ns, i.path)).sha256 if datasets else None


def _known_tags(model: ElderModel) -> Iterable[str]:
    """The names that an elder's work may have left in Ollama, as far as the registry tells."""
    yield from (version.tag for version in model.versions)
    # Whoever took versions out may have died before their names went.
    numbers = {version.version for version in model.versions}
    for number in range(max(1, model.next_version - _LOOKED_BACK), model.next_version):
        if number not in numbers:
            yield model_tag(model.id, number)
    yield from model.passing


# Its application ------------------------------------------------------------------------------


class Retention:
    """Looks, decides by the rule and removes, one elder at a time."""

    def __init__(
        self,
        registry: ModelRegistry,
        ledger: Ledger,
        datasets: DatasetRegistry,
        host: ModelHost,
        inventory: Inventory,
        settings: RetentionSettings,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives Unix time in seconds, as the file system counts it."""
        self._registry = registry
        self._ledger = ledger
        self._datasets = datasets
        self._host = host
        self._inventory = inventory
        self._settings = settings
        self._clock = clock

    def elders(self) -> list[str]:
        """The elders of whom models or data sets are known; of others nothing is ever removed."""
        return sorted({*self._registry.elders(), *self._datasets.elders()})

    def plan(self, elder_id: str, *, is_thorough: bool = True) -> Removal | None:
        """Say what would go; None for an elder of whom nothing is known.

        A thorough plan asks the host for the list of all its models, which grows with the elders;
        the other goes by the names that the registry knows.

        Raises StoreUnavailable, OllamaUnavailable.
        """
        # What is there first, and who needs it last: things are accounted for before they are
        # made, so that what was begun in between is found to be needed.
        now_s = self._clock()
        items = self._inventory.items(elder_id)
        tags = tuple(self._host.tags(f"{model_name(elder_id)}:")) if is_thorough else ()
        known = self._datasets.find(elder_id)
        model = self._registry.find(elder_id)
        if model is not None and not is_thorough:
            tags = tuple(_known_tags(model))
        if model is None:
            # Answers came, and never a training: whoever has more than data sets was trained,
            # and the registry is not hers.
            was_trained = tags or any(item.kind != "dataset" for item in items)
            if known is None or was_trained:
                return None
            model = ElderModel(id=elder_id, elder_name=known["elder_name"])
        newest = (known or {}).get("sha256")
        jobs: dict[str, str] = dict(self._ledger.statuses(elder_id))
        seen = Seen(
            model=model, jobs=jobs, newest_dataset=newest, tags=tags, items=items, now_s=now_s
        )
        return decide(seen, self._settings)

    def apply(self, removal: Removal) -> Removal | None:
        """Carry a decision out; return what went, or None where a rollback went before.

        Safe to be cut off anywhere: the next round removes the rest.
        """
        elder_id, current = removal.elder_id, removal.current
        if removal.versions and not self._registry.forget(elder_id, current, removal.versions):
            return None
        if removal.forms and self._registry.get(elder_id).current != current:
            return None
        tags = tuple(tag for tag in removal.tags if self._host.delete(tag))
        items = tuple(item for item in removal.items if self._inventory.remove(item))
        # Last: a form that is recorded and gone does no harm, for the host is asked whether it has
        # it; one that is there and not recorded would stay for good.
        self._registry.forget_forms(elder_id, current, removal.forms)
        return removal.model_copy(update={"tags": tags, "items": items})

    def prune(self, elder_id: str, *, is_thorough: bool = True) -> Removal | None:
        """Remove what the rule lets go of one elder's work, and return it.

        Brings `latest` after the registry too, where a death left it behind.
        """
        removal = self.plan(elder_id, is_thorough=is_thorough)
        done = None if removal is None or removal.is_empty else self.apply(removal)
        with suppress(ModelNotReady):  # The host lost the version: whoever asks for it is told.
            bring_latest(self._registry, self._host, elder_id)
        return done
