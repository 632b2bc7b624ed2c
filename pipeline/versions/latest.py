"""`latest`, the tag in Ollama of the current version, follows the registry (docs/decisions/0014).

A process that changes the current version in the registry then updates `latest`; so does one that
finds that another crashed in between. Ollama knows no fences, so a version reaches `latest` by way
of a handover, a temporary tag that later processes delete. A process that was suspended before its
copy, and resumes when another version is current, therefore finds nothing to copy.
"""

from uuid import uuid4

from pipeline.hosting.port import ModelHost
from pipeline.versions.registry import ModelRegistry
from schemas.errors import ModelNotReady
from schemas.identifiers import current_tag, handed_over, handover_tag


def bring_latest(registry: ModelRegistry, host: ModelHost, elder_id: str) -> None:
    """Make an elder's `latest` the current version; repeat while the registry changes meanwhile.

    Without a current version `latest` is deleted. Raises ModelNotReady if Ollama no longer has
    the current version.
    """
    is_brought = False
    while not is_brought and registry.find(elder_id) is not None:
        tag = _current_version_tag(registry, elder_id)
        is_brought = (
            _hand_over(registry, host, elder_id, tag)
            if tag is not None
            else _delete_latest(registry, host, elder_id)
        )
        is_brought = is_brought and _current_version_tag(registry, elder_id) == tag


def _hand_over(registry: ModelRegistry, host: ModelHost, elder_id: str, tag: str) -> bool:
    """Copy a version to `latest` through a handover; False if another process interfered.

    The registry is read between the two copies. A process that changes it earlier is noticed by
    that read; one that changes it later finds our handover and deletes it before its own copy.
    """
    ours = handover_tag(tag, uuid4().hex[:8])
    registry.note_passing(elder_id, ours)
    try:
        host.copy(tag, ours)
    except ModelNotReady:
        if _current_version_tag(registry, elder_id) == tag:
            raise
        return False
    try:
        if _current_version_tag(registry, elder_id) != tag:
            return False
        _remove_handovers(registry, host, elder_id, but_of=tag)
        host.copy(ours, current_tag(elder_id))
        # Now remove other handovers of the same version, too: a crashed process may have left
        # them, and a running one retries. Before our copy, two processes that did so could undo
        # each other's work for ever.
        _remove_handovers(registry, host, elder_id, but_of=None)
    except ModelNotReady:
        return False
    finally:
        host.delete(ours)
        registry.drop_passing(elder_id, ours)
    return True


def _delete_latest(registry: ModelRegistry, host: ModelHost, elder_id: str) -> bool:
    _remove_handovers(registry, host, elder_id, but_of=None)
    if _current_version_tag(registry, elder_id) is None:
        host.delete(current_tag(elder_id))
    return True


def _remove_handovers(
    registry: ModelRegistry, host: ModelHost, elder_id: str, *, but_of: str | None
) -> None:
    """Delete all handovers but those of the version `but_of`: their owners must not finish.

    A handover is noted in the registry before it is made, so Ollama's list of all models, which
    grows with the number of elders, is not needed. The notes stay: an owner may still be about to
    make its handover.
    """
    model = registry.find(elder_id)
    for name in model.passing if model is not None else ():
        if handed_over(name) not in (None, but_of):
            host.delete(name)


def _current_version_tag(registry: ModelRegistry, elder_id: str) -> str | None:
    model = registry.find(elder_id)
    return model.serving.tag if model is not None and model.serving is not None else None
