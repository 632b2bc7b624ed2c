"""No elder is given anything of another: no reply, no memory, no data set, no model."""

import itertools
from collections.abc import Iterable

from schemas.identifiers import model_name
from tests.chaos.checks.outcomes import (
    data_of,
    request_of,
)
from tests.chaos.checks.served import mixed_models
from tests.chaos.evidence import Case


def mixed(case: Case) -> Iterable[str]:
    """Say what of one elder reached another, in replies, data sets, adapters or models."""
    yield from _replies_mixed(case)
    yield from _files_mixed(case)
    yield from mixed_models(case)


def _replies_mixed(case: Case) -> Iterable[str]:
    for record in case.records("chat-replies"):
        told = data_of(record)
        request = request_of(record)
        asked = {o.elder_id for o in case.operations if o.event_id == request}
        if told["error"] is None and {told["elder_id"]} != asked:
            yield f"{request} was answered for {told['elder_id']}"
        if told["model"] and told["model"].split(":")[0] != model_name(told["elder_id"]):
            yield f"{request} was answered by {told['model']}"
        if any(not s["answer_id"].startswith(f"{told['elder_id']}-") for s in told["sources"]):
            yield f"{request} was answered from another's memories"


def _files_mixed(case: Case) -> Iterable[str]:
    for elder, other in itertools.combinations(case.elders, 2):
        if case.evidence.adapters(elder.id) & case.evidence.adapters(other.id):
            yield f"{elder.id} and {other.id} have the same adapter"
    for elder in case.elders:
        for name, content in case.evidence.datasets(elder.id).items():
            for other in case.elders:
                if (other.mark.encode() in content) != (other is elder):
                    yield f"data set {name} of {elder.id}: {other.id}'s mark is wrong"
