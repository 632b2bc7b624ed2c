"""The catalogue of faults: where each strikes and what it does.

A fault inside the service strikes at a point, a named place in its code (see `points.py`), the
`nth` time that this place is passed. The driver does a fault around the service after a while.
"""

from typing import Literal

from schemas.base import Frozen

Action = Literal[
    "kill", "stop", "term", "kill_child", "refuse", "disk_full", "out_of_memory", "damage"
]
Around = Literal[
    "broker_clean",
    "broker_hard",
    "coordinator_moved",
    "rebalance",
    "mongodb_gone",
    "mongodb_hangs",
    "ollama_gone",
    "ollama_hangs",
    "ollama_slow",
    "ollama_500",
    "killed",
    "none",
]
During = Literal["training", "chat"]


class Fault(Frozen):
    """One kind of fault, inside the service (`point`, `action`) or around it (`around`, `during`).

    It strikes `times` times, from a passing of the point that is drawn from 1 to `up_to`.
    """

    name: str
    point: str | None = None
    action: Action | None = None
    around: Around = "none"
    during: During = "training"
    up_to: int = 1
    times: int = 1
    needs_apache: bool = False


def _killed(point: str, up_to: int = 2) -> Fault:
    return Fault(name=f"kill -9 {point}", point=point, action="kill", up_to=up_to)


def _killed_often(point: str) -> Fault:
    # More deaths than a job may have failed attempts.
    return Fault(name=f"kill -9 {point}, again and again", point=point, action="kill", times=7)


_POINTS_OF_DEATH: dict[str, int] = {
    "before the insert": 2,
    "after the insert": 2,
    "before the commit": 3,
    "after the commit": 3,
    "after the claim": 3,
    "in mid-training": 8,
    "after the artefact": 2,
    "in the merge": 2,
    "before the create": 2,
    "before the version tag": 2,
    "after the release": 2,
    "before the handover": 3,
    "before latest": 3,
    "after latest": 2,
    "before the end": 3,
    "after the end": 3,
    "after the event": 4,
    "after the mark": 4,
    "before the data set": 2,
    "after the data set": 2,
    "before the reply is stored": 3,
    "after the reply is stored": 3,
    "after the reply": 3,
    "after the dead letter": 2,
    "before the rollback": 1,
    "after the rollback": 1,
    "after the command": 3,
}
_POINTS_OF_OFTEN = ("after the claim", "in mid-training", "before the end")
_POINTS_OF_SLEEP = (
    "after the claim",
    "in mid-training",
    "before the create",
    "before the version tag",
    "after the release",
    "before the handover",
    "before latest",
    "before the end",
    "after the event",
    "before the reply is stored",
)
_POINTS_OF_TERM = (
    "after the insert",
    "before the data set",
    "in mid-training",
    "before the version tag",
    "before the end",
    "after the event",
    "before the commit",
    "before the reply is stored",
    "after the dead letter",
    "before the rollback",
)

NONE = Fault(name="none")
# Not a fault: a second look at all runs of a session, when everything has been quiet for long.
AGAIN = Fault(name="all runs looked over again")
_AROUND: dict[str, Around] = {
    "rebalance": "rebalance",
    "MongoDB gone and back": "mongodb_gone",
    "MongoDB hangs": "mongodb_hangs",
    "Ollama gone and back": "ollama_gone",
    "Ollama hangs": "ollama_hangs",
    "Ollama slow": "ollama_slow",
    "Ollama answers 500": "ollama_500",
    "broker restarted, clean": "broker_clean",
    "broker restarted, hard": "broker_hard",
    "coordinator moved": "coordinator_moved",
    "kill -9 at random moments": "killed",
}
_NEEDS_APACHE: frozenset[Around] = frozenset({"broker_clean", "broker_hard", "coordinator_moved"})
_DURING: tuple[During, ...] = ("training", "chat")
_KILLS = 6

FAULTS: tuple[Fault, ...] = (
    NONE,
    *(_killed(point, up_to) for point, up_to in _POINTS_OF_DEATH.items()),
    *(_killed_often(point) for point in _POINTS_OF_OFTEN),
    *(
        Fault(name=f"SIGSTOP past the lease {point}", point=point, action="stop", up_to=2)
        for point in _POINTS_OF_SLEEP
    ),
    *(
        Fault(
            name=f"SIGTERM {point}",
            point=point,
            action="term",
            up_to=min(2, _POINTS_OF_DEATH.get(point, 2)),
        )
        for point in _POINTS_OF_TERM
    ),
    Fault(
        name="kill -9 of the training child", point="in mid-training", action="kill_child", up_to=8
    ),
    Fault(
        name="kill -9 of the child in the merge",
        point="in the merge",
        action="kill_child",
        up_to=2,
    ),
    Fault(
        name="out of memory in training", point="a training step", action="out_of_memory", up_to=4
    ),
    Fault(name="commit refused", point="the commit", action="refuse", up_to=3, times=3),
    Fault(
        name="commit refused afterwards",
        point="the asynchronous commit",
        action="refuse",
        up_to=3,
        times=3,
    ),
    Fault(name="dead-letter topic not writable", point="the dead letter", action="refuse", times=4),
    # The syncs of a data set: its manifest, the folder, the JSONL itself, the folder again.
    Fault(
        name="disk full at the JSONL", point="sync of jsonl", action="disk_full", up_to=4, times=3
    ),
    Fault(
        name="disk full at the checkpoint",
        point="sync of checkpoint",
        action="disk_full",
        up_to=3,
        times=3,
    ),
    # The syncs of an adapter: its configuration, weights, GGUF and manifest.
    Fault(
        name="disk full at the adapter",
        point="sync of adapter",
        action="disk_full",
        up_to=4,
        times=3,
    ),
    Fault(
        name="disk full at the merged model",
        point="sync of merged",
        action="disk_full",
        up_to=2,
        times=3,
    ),
    *(
        Fault(name=f"a bit changes in the {what}", point=f"damage to the {what}", action="damage")
        for what in ("adapter", "data set", "checkpoints", "merged model")
    ),
    *(
        Fault(
            name=f"{name} in mid-{during}",
            around=around,
            during=during,
            times=_KILLS if around == "killed" else 1,
            needs_apache=around in _NEEDS_APACHE,
        )
        for name, around in _AROUND.items()
        for during in _DURING
    ),
)
