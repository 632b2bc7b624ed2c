"""The schedule of one run: its optimizer steps, the examples of each and their learning rate.

Everything here follows from the parameters and the number of examples. A resumed run therefore
needs only its step number to continue with the same examples at the same learning rate.
"""

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from schemas.training import TrainingParameters

T = TypeVar("T")

# Share of all steps in which the learning rate rises.
WARM_UP = 0.06
# Share of the full learning rate that is left at the last step.
FINAL_RATE = 0.1


class Schedule:
    """The optimizer steps of one run. Steps and epochs count from 0."""

    def __init__(self, parameters: TrainingParameters, example_count: int) -> None:
        self._parameters = parameters
        self._example_count = example_count
        self._batch_size = parameters.batch_size * parameters.gradient_accumulation_steps
        self._steps_per_epoch = math.ceil(example_count / self._batch_size)
        self.total_steps = self._steps_per_epoch * parameters.epochs

    def epoch_of(self, step: int) -> int:
        """Return the epoch that a step belongs to."""
        return step // self._steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Return the learning rate at which a step is taken."""
        return self._parameters.learning_rate * rate(step, self.total_steps)

    def batch_of(self, step: int, examples: Sequence[Sequence[T]]) -> list[T]:
        """Return the examples of a step, each in the wording of its epoch.

        `examples` has for each example its wordings, the taught one first. The examples of an
        epoch are shuffled by the seed and the epoch's number; its last batch may be smaller.
        """
        epoch, place = divmod(step, self._steps_per_epoch)
        order = list(range(self._example_count))
        random.Random(f"{self._parameters.seed}/{epoch}").shuffle(order)
        chosen = order[place * self._batch_size : (place + 1) * self._batch_size]
        return [self._wording_of(examples[index], epoch) for index in chosen]

    def _wording_of(self, wordings: Sequence[T], epoch: int) -> T:
        """Choose the taught wording in even epochs and in the last two, else another one."""
        if epoch % 2 == 0 or epoch >= self._parameters.epochs - 2 or len(wordings) == 1:
            return wordings[0]
        return wordings[1 + (epoch // 2) % (len(wordings) - 1)]


def rewording_count(parameters: TrainingParameters) -> int:
    """Return how many other wordings of each question the schedule can use."""
    return parameters.epochs // 2 if parameters.rewordings else 0


def rate(step: int, total_steps: int) -> float:
    """Return the share of the full learning rate at a step: linear warm-up, then a cosine.

    With N steps in all, W = max(1, round(WARM_UP * N)) of them to warm up and f = FINAL_RATE:

        (s + 1) / W                                          while s < W
        f + (1 - f) / 2 * (1 + cos(pi * (s - W) / (N - W)))  from then on

    The result is above 0 and at most 1. Source of the cosine: Loshchilov & Hutter 2017, "SGDR".
    """
    warm_up = max(1, round(WARM_UP * total_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, total_steps - warm_up)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))
