"""The state of a run as named tensors: all that a resumed run needs beside its position.

They are the adapter's matrices, the optimizer's moments, and the state of torch's random generator,
from which dropout follows. A resumed run ends with the same bits as an uninterrupted one.
"""

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from pipeline.training.checkpoint import optimizer_tensors, restore_optimizer

_ADAPTER = "adapter."
_RANDOM = "rng"


def state_tensors(model: PeftModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return all that a run needs to continue: adapter, optimizer and random generator."""
    adapter = get_peft_model_state_dict(model)
    tensors: dict[str, Tensor] = {f"{_ADAPTER}{name}": value for name, value in adapter.items()}
    tensors |= optimizer_tensors(optimizer)
    tensors[_RANDOM] = torch.get_rng_state()
    return tensors


def restore_state(
    model: PeftModel, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put what `state_tensors` returned back into the adapter, the optimizer and torch."""
    adapter = {
        name.removeprefix(_ADAPTER): value
        for name, value in tensors.items()
        if name.startswith(_ADAPTER)
    }
    set_peft_model_state_dict(model, adapter)
    restore_optimizer(optimizer, tensors)
    torch.set_rng_state(tensors[_RANDOM])
