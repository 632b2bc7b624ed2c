"""Retention: which of an elder's old versions and files are removed (docs/decisions/0011).

The rule, `decide`, is a pure function of what was seen. It keeps the current version, every
version that a rollback may return to, and what an unfinished job or the newest data set needs.
Files that neither ledger nor registry accounts for are kept until they are old.

`Retention` applies the rule in an order in which a crash leaves only garbage for the next round:
first the registry, so that no request is sent to a model that is about to be deleted, then Ollama,
then the disk.
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
# How many version numbers before the next one may still have a tag that a crash left behind.
_NUMBERS_CHECKED = 20


class Seen(Frozen):
    """One elder's versions, jobs, files and tags when they were listed: the rule's input."""

    model: ElderModel
    jobs: dict[str, str]
    """The status of each of the elder's jobs in the ledger, by job id."""
    newest_dataset: str | None
    tags: tuple[str, ...]
    """The elder's tags in Ollama."""
    items: tuple[Item, ...]
    now_s: float
    """Unix time in seconds."""


class Removal(Frozen):
    """What to remove of one elder; `current` is the version that was current at the decision."""

    elder_id: str
    current: int | None
    versions: tuple[int, ...]
    forms: tuple[int, ...] = ()
    """Versions that stay without their merged file, which the adapter can make again."""
    tags: tuple[str, ...]
    items: tuple[Item, ...]

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to do."""
        return not (self.versions or self.forms or self.tags or self.items)

    @property
    def size_bytes(self) -> int:
        """The disk space that the files take."""
        return sum(item.size_bytes for item in self.items)

    def counts(self) -> dict[str, int]:
        """Count what is to be removed, by kind."""
        files = Counter[str](item.kind for item in self.items)
        models = {"version": len(self.versions), "form": len(self.forms), "tag": len(self.tags)}
        return {**models, **files}


# The rule -------------------------------------------------------------------------------------


def decide(seen: Seen, settings: RetentionSettings) -> Removal:
    """Return what may be removed; a pure function."""
    kept = [v for v in seen.model.versions if v.version in _kept_versions(seen, settings)]
    unserved = [v for v in kept if v.ready and v.forms and not _keeps_form(v, seen)]
    served = [v for v in kept if v not in unserved]
    return Removal(
        elder_id=seen.model.id,
        current=seen.model.current,
        versions=tuple(v.version for v in seen.model.versions if v not in kept),
        forms=tuple(v.version for v in unserved),
        tags=tuple(tag for tag in seen.tags if _is_tag_removable(tag, seen, served)),
        items=tuple(_removable(seen, kept, settings)),
    )


def _kept_versions(seen: Seen, settings: RetentionSettings) -> set[int]:
    """Return the numbers of the current, the newest, the newest earlier and the open versions.

    `settings.versions` limits the newest released versions and, separately, those before the
    current one. So after a rollback the family can still go further back, and forward again.
    """
    current = seen.model.current
    released = sorted(v.version for v in seen.model.versions if v.ready)
    earlier = [number for number in released if current is not None and number < current]
    kept = {*released[-settings.versions :], *earlier[-settings.versions :]}
    unfinished = {
        v.version for v in seen.model.versions if not v.ready and not _is_abandoned(v, seen)
    }
    return kept | unfinished | ({current} if current is not None else set())


def _keeps_form(version: ModelVersion, seen: Seen) -> bool:
    """Say whether a kept version also keeps its form in the host.

    A merged file is as large as the base, so only the current version and the one before it keep
    theirs. While the elder has an open job all do: the job may be about to make one current.
    """
    if version.form != "merged" or _has_open_job(seen):
        return True
    nearest = (seen.model.serving, seen.model.previous)
    return any(near is not None and near.version == version.version for near in nearest)


def _is_abandoned(version: ModelVersion, seen: Seen) -> bool:
    """Say whether the job of an unreleased version has ended, so that it never will be released."""
    return seen.jobs.get(version.job_id) in _TERMINAL


def _has_open_job(seen: Seen) -> bool:
    return any(status not in _TERMINAL for status in seen.jobs.values())


def _is_tag_removable(tag: str, seen: Seen, served: list[ModelVersion]) -> bool:
    """Say whether a tag is that of a version that is no longer served, or was left by a crash."""
    elder_id = seen.model.id
    if tag == current_tag(elder_id) or not tag.startswith(f"{model_name(elder_id)}:"):
        return False
    if handed_over(tag) is not None:
        return True  # A process that is still using it starts over with another name.
    candidate = read_candidate(tag)
    if candidate is not None:
        # A training without a ledger uses it while its version is unreleased; an open job may too.
        unreleased = {v.version for v in served if not v.ready}
        return candidate[0] not in unreleased and not _has_open_job(seen)
    given = {model_tag(elder_id, number) for number in range(1, seen.model.next_version)}
    return tag in given and tag not in {v.tag for v in served}


def _removable(seen: Seen, kept: list[ModelVersion], settings: RetentionSettings) -> Iterable[Item]:
    """Yield the files that no kept version and no open job needs, if they are old enough."""
    adapters = _kept_adapters(seen, kept)
    trained_on = {version.dataset_sha256 for version in kept}
    needed = {*trained_on, seen.newest_dataset, _newest_on_disk(seen)}
    unreleased = {v.job_id for v in kept if not v.ready}
    for item in seen.items:
        is_old = seen.now_s - item.modified_ns / 1e9 >= settings.grace_h * _HOUR_S
        if item.kind == "dataset":
            # A job's data set is in the registry only once it is built, so an open job keeps all.
            if is_old and item.sha256 not in needed and not _has_open_job(seen):
                yield item
            continue
        status = seen.jobs.get(item.job_id) if item.job_id is not None else None
        is_in_use = item.job_id in unreleased or (status is not None and status not in _TERMINAL)
        if is_in_use or item in adapters:
            continue
        # Until they are old, remains stay for diagnosis, and so do the files of a job that the
        # ledger does not know: it may be running without a ledger.
        if is_old or (item.kind != "remains" and status in _TERMINAL):
            yield item


def _kept_adapters(seen: Seen, kept: list[ModelVersion]) -> list[Item]:
    """Return the adapters of kept versions; if no hash matches, all adapters of the job."""
    found: list[Item] = []
    for version in kept:
        of_job = [i for i in seen.items if i.kind == "adapter" and i.job_id == version.job_id]
        found += [i for i in of_job if i.sha256 == version.gguf_sha256] or of_job
    return found


def _newest_on_disk(seen: Seen) -> str | None:
    """Return the hash of the newest data set on the disk: no collection records exports."""
    datasets = [item for item in seen.items if item.kind == "dataset"]
    return max(datasets, key=lambda i: (i.modified_ns, i.path)).sha256 if datasets else None


def _known_tags(model: ElderModel) -> Iterable[str]:
    """Yield the tags that an elder may have in Ollama, as far as the registry knows."""
    yield from (version.tag for version in model.versions)
    # A process that forgot these versions may have crashed before it removed their tags.
    numbers = {version.version for version in model.versions}
    for number in range(max(1, model.next_version - _NUMBERS_CHECKED), model.next_version):
        if number not in numbers:
            yield model_tag(model.id, number)
    yield from model.passing


# Applying it ----------------------------------------------------------------------------------


class Retention:
    """Applies the rule to one elder at a time."""

    def __init__(
        self,
        *,
        registry: ModelRegistry,
        ledger: Ledger,
        datasets: DatasetRegistry,
        host: ModelHost,
        inventory: Inventory,
        settings: RetentionSettings,
        clock: Callable[[], float],
    ) -> None:
        """`clock` returns Unix time in seconds, comparable with the files' times."""
        self._registry = registry
        self._ledger = ledger
        self._datasets = datasets
        self._host = host
        self._inventory = inventory
        self._settings = settings
        self._clock = clock

    def elders(self) -> list[str]:
        """Return the ids of elders with a known model or data set; others' files are left alone."""
        return sorted({*self._registry.elders(), *self._datasets.elders()})

    def plan(self, elder_id: str, *, is_thorough: bool = True) -> Removal | None:
        """Return what would be removed; None for an elder whom the database does not know.

        A thorough plan lists all models of the host, a list that grows with the number of elders;
        otherwise only the tags that the registry knows are considered. Raises StoreUnavailable,
        OllamaUnavailable.
        """
        # List files and tags first, read registry and ledger last: whatever is created between is
        # recorded before it is made, and so is found to be needed.
        now_s = self._clock()
        items = self._inventory.items(elder_id)
        tags = tuple(self._host.tags(f"{model_name(elder_id)}:")) if is_thorough else ()
        known = self._datasets.find(elder_id)
        model = self._registry.find(elder_id)
        if model is not None and not is_thorough:
            tags = tuple(_known_tags(model))
        if model is None:
            # An elder who was never trained has data sets alone. Anything more means that this is
            # not the registry of that training, so nothing is removed.
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
        """Remove, and return what was removed; None if another version is current by now.

        May be interrupted anywhere: the next round removes the rest.
        """
        elder_id, current = removal.elder_id, removal.current
        if removal.versions and not self._registry.forget(elder_id, current, removal.versions):
            return None
        if removal.forms and self._registry.get(elder_id).current != current:
            return None
        tags = tuple(tag for tag in removal.tags if self._host.delete(tag))
        items = tuple(item for item in removal.items if self._inventory.remove(item))
        # Last: a form recorded but gone is harmless, since the host is asked whether it has it;
        # a form present but not recorded would never be removed.
        self._registry.forget_forms(elder_id, current, removal.forms)
        return removal.model_copy(update={"tags": tags, "items": items})

    def prune(self, elder_id: str, *, is_thorough: bool = True) -> Removal | None:
        """Remove what the rule allows of one elder, and return what was removed.

        Also brings `latest` up to date with the registry, if a crash left it behind.
        """
        removal = self.plan(elder_id, is_thorough=is_thorough)
        done = None if removal is None or removal.is_empty else self.apply(removal)
        with suppress(ModelNotReady):  # The host lost the version; chats and rollbacks report it.
            bring_latest(self._registry, self._host, elder_id)
        return done
