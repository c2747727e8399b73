"""The encoder's optimizers beyond SGD."""

from collections.abc import Callable
from typing import Any, overload

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch import Tensor, nn

NEWTON_SCHULZ = [(3.4445, -4.7750, 2.0315)]  # Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
ITERATIONS = 5


class Muon(torch.optim.SGD):
    """SGD in which groups marked `orthogonal` step along their momentum made orthogonal (Jordan et al. 2024).

    A weight [out, ...] of such a group is flattened to a matrix [out, in], its Nesterov momentum M = U Σ Vᵀ is replaced
    by about U Vᵀ, so that every direction in it moves equally far, and scaled by 0.2 √max(out, in), which makes a rate
    mean what it means for AdamW (Liu et al. 2025, arXiv 2502.16982, section 2.2). Weight decay is added to that step
    rather than to the gradient. All other groups are SGD's, such as those of players that ascend.

    Args:
        groups: as of torch.optim.SGD, each with `orthogonal`; only weights of two or more dimensions can be.
        lr, momentum: of all groups.

    Raises:
        ValueError: if an orthogonal group has a weight of less than two dimensions, or one that ascends.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float = 0.9) -> None:
        for group in groups:
            if group.setdefault("orthogonal", False):
                if group.get("maximize") or any(weight.ndim < 2 for weight in group["params"]):
                    raise ValueError("orthogonal steps are for weights of two or more dimensions that descend")
                group |= {"momentum": 0.0, "orthogonal_momentum": momentum}  # its momentum comes before U Vᵀ
        super().__init__(groups, lr=lr, momentum=momentum)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every group; `closure` computes the gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"] if group["orthogonal"] else ():
                if weight.grad is not None:
                    weight.grad = self._direction(weight, group["orthogonal_momentum"])
        super().step()
        return loss

    @torch.no_grad()
    def _direction(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """What a weight moves along at a rate of one, in its own shape."""
        assert weight.grad is not None
        state = self.state[weight]
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        state["average"].mul_(momentum).add_(weight.grad)
        matrix = torch.add(weight.grad, state["average"], alpha=momentum).flatten(1)
        # Rounding to bf16 does not matter to five rough iterations, and is fast where it is in hardware.
        dtype = torch.bfloat16 if weight.is_cuda else weight.dtype
        orthogonal = zeropower_via_newtonschulz(matrix, ITERATIONS, NEWTON_SCHULZ, dtype=dtype)
        scale = 0.2 * max(matrix.shape) ** 0.5
        return orthogonal.to(weight.dtype).mul_(scale).view_as(weight)
