"""`latest`, the name in Ollama of what answers: it follows the registry (docs/decisions/0014).

Whoever changed the registry brings `latest` after it; so does whoever finds that another died in
between. Ollama knows no fences: a process that was held up before its copy, and goes on when
another version answers, must find nothing to copy.
"""

from uuid import uuid4

from pipeline.hosting.port import ModelHost
from pipeline.versions.registry import ModelRegistry
from schemas.errors import ModelNotReady
from schemas.identifiers import current_tag, handed_over, handover_tag


def bring_latest(registry: ModelRegistry, host: ModelHost, elder_id: str) -> None:
    """Bring an elder's `latest` to what the registry says, until it says the same afterwards.

    Where nothing answers, there is no `latest` either. Raises ModelNotReady where Ollama lost
    the version that should answer.
    """
    is_brought = False
    while not is_brought and registry.find(elder_id) is not None:
        tag = _answering(registry, elder_id)
        is_brought = (
            _hand_over(registry, host, elder_id, tag)
            if tag is not None
            else _take_away(registry, host, elder_id)
        )
        is_brought = is_brought and _answering(registry, elder_id) == tag


def _hand_over(registry: ModelRegistry, host: ModelHost, elder_id: str, tag: str) -> bool:
    """Copy a version to `latest` by a name of our own; False where another was at it too.

    The look at the registry lies between the two copies. So whoever changes it later finds our
    name, and removes it before it makes its own copy; whoever changed it earlier, we see.
    """
    ours = handover_tag(tag, uuid4().hex[:8])
    registry.note_passing(elder_id, ours)
    try:
        host.copy(tag, ours)
    except ModelNotReady:
        if _answering(registry, elder_id) == tag:
            raise
        return False
    try:
        if _answering(registry, elder_id) != tag:
            return False
        _remove_handovers(registry, host, elder_id, but_of=tag)
        host.copy(ours, current_tag(elder_id))
        # Also those of the same version, which a dead process may have left. Who lives tries
        # again; before our copy it could do the same to us, without end.
        _remove_handovers(registry, host, elder_id, but_of=None)
    except ModelNotReady:
        return False
    finally:
        host.delete(ours)
        registry.drop_passing(elder_id, ours)
    return True


def _take_away(registry: ModelRegistry, host: ModelHost, elder_id: str) -> bool:
    _remove_handovers(registry, host, elder_id, but_of=None)
    if _answering(registry, elder_id) is None:
        host.delete(current_tag(elder_id))
    return True


def _remove_handovers(
    registry: ModelRegistry, host: ModelHost, elder_id: str, *, but_of: str | None
) -> None:
    """Shut out whoever would bring another version than `but_of`.

    Their names are in the registry before they are in Ollama, whose list of all models grows with
    the elders. They stay there: whoever was shut out may still be about to make his name.
    """
    model = registry.find(elder_id)
    for name in model.passing if model is not None else ():
        if handed_over(name) not in (None, but_of):
            host.delete(name)


def _answering(registry: ModelRegistry, elder_id: str) -> str | None:
    model = registry.find(elder_id)
    return model.serving.tag if model is not None and model.serving is not None else None
