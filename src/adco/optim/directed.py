"""SGD in which some groups of parameters step along another direction than their gradient."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn


class DirectedSGD(torch.optim.SGD):
    """SGD; in groups marked `MARK`, the gradients are replaced by `directions` before the step."""

    MARK: ClassVar[str]

    def directions(self, weights: Sequence[nn.Parameter], group: dict[str, Any]) -> Sequence[Tensor]:
        """Return the update of each weight at learning rate 1, up to its sign and without weight decay, in its shape.

        Args:
            weights: those of the group that have a gradient.
            group: the parameter group, for its settings.
        """
        raise NotImplementedError

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all groups once. If given, `closure` computes the gradients first and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                weights = [weight for weight in group["params"] if weight.grad is not None]
                if group[self.MARK]:
                    for weight, direction in zip(weights, self.directions(weights, group), strict=True):
                        weight.grad = direction
        super().step()
        return loss
