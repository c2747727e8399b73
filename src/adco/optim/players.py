"""The parameters that are trained, and the learning rate of each step."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Player:
    """A group of parameters that are trained alike. In AdCo, encoder and adversaries play against each other."""

    parameters: Iterable[nn.Parameter]
    learning_rate: Callable[[int], float]  # as a function of the step
    weight_decay: float
    maximize: bool = False  # whether the player ascends its loss
    # Parameters of two or more dimensions that are no matrices, such as position embeddings; others may be in it, too.
    vectors: frozenset[nn.Parameter] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate as a function of the step: linear warm-up, then half a cosine."""

    peak: float
    final: float
    warmup_steps: int
    steps: int  # of the whole run

    def __call__(self, step: int) -> float:
        """Return the learning rate of step 0, 1, …, steps − 1."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
