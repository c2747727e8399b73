"""SGD in which some groups of parameters step along another direction than their gradient."""

from collections.abc import Callable
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn


class DirectedSGD(torch.optim.SGD):
    """SGD; in groups marked `MARK`, the gradient is replaced by `direction` before the step."""

    MARK: ClassVar[str]

    def direction(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the update of a weight at learning rate 1, up to its sign and without weight decay, in its shape."""
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
                for weight in group["params"] if group[self.MARK] else ():
                    if weight.grad is not None:
                        weight.grad = self.direction(weight, weight.grad, group)
        super().step()
        return loss
