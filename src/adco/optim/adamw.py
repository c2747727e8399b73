"""AdamW for some groups of parameters and SGD for the others, in one optimizer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adco.optim.directed import DirectedSGD

BETAS = (0.9, 0.999)  # PyTorch's, which the published code of MoCo v3 uses
EPSILON = 1e-8


class AdamWSGD(DirectedSGD):
    """SGD, with AdamW steps (Loshchilov & Hutter 2019, arXiv 1711.05101) for parameter groups marked `adaptive`.

    All other groups get plain SGD steps. AdamW's step is SGD's with another direction: the gradient is replaced by
    m̂ / (√v̂ + ε), and there is no momentum beyond that. Weight decay is decoupled: it is added to this direction.

    Args:
        groups: as for torch.optim.SGD, with an optional bool `adaptive`. Adaptive groups cannot maximize.
        lr, momentum: defaults for all groups; adaptive groups have AdamW's betas instead of the momentum.

    Raises:
        ValueError: if an adaptive group maximizes.
    """

    MARK = "adaptive"

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float = 0.9) -> None:
        for group in groups:
            if group.setdefault("adaptive", False):
                if group.get("maximize"):
                    raise ValueError("adaptive groups cannot maximize")
                group["momentum"] = 0.0
        super().__init__(groups, lr=lr, momentum=momentum)

    def directions(self, weights: Sequence[nn.Parameter], group: dict[str, Any]) -> Sequence[Tensor]:
        return [self._direction(weight) for weight in weights]

    def _direction(self, weight: nn.Parameter) -> Tensor:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if "step" not in state:
            state |= {"step": torch.tensor(0.0), "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        first, second = (1 - beta ** float(state["step"]) for beta in BETAS)  # the averages start at 0
        direction: Tensor = (state["mean"] / first).div_((state["square"] / second).sqrt_().add_(EPSILON))
        return direction
