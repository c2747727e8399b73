"""Who is trained at which rate, and by which optimizer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, overload

import torch
from timm.optim.lars import Lars
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
ITERATIONS = 5


@dataclass(frozen=True, kw_only=True)
class Player:
    """Parameters that are trained alike."""

    parameters: Iterable[nn.Parameter]
    learning_rate: Callable[[int], float]  # of each step
    weight_decay: float
    maximize: bool = False


def make_optimizer(name: str, players: Iterable[Player]) -> tuple[torch.optim.Optimizer, list[Callable[[int], float]]]:
    """An optimizer of all players, with the papers' momentum of 0.9, and the learning rate of each of its groups.

    Args:
        name: sgd; muon or lars, whose steps only weights of two or more dimensions take. lars has no weight decay on
            the others, biases and norms (You et al. 2017, arXiv 1708.03888; as in SimCLR and BYOL, whose trust
            coefficient of 0.001 timm's has too).
        players: one that maximizes is trained by SGD.

    Raises:
        ValueError: if a player maximizes and the optimizer is lars.
    """
    groups: list[dict[str, Any]] = []
    rates = []
    for player in players:
        parameters = list(player.parameters)
        matrices, vectors = [w for w in parameters if w.ndim > 1], [w for w in parameters if w.ndim <= 1]
        parts: list[tuple[list[nn.Parameter], dict[str, Any]]] = [(parameters, {})]
        if name == "lars":
            if player.maximize:
                raise ValueError("lars cannot maximize")
            parts = [(matrices, {"always_adapt": True}), (vectors, {"weight_decay": 0.0})]
        elif name == "muon" and not player.maximize:
            parts = [(matrices, {"orthogonal": True}), (vectors, {})]
        for weights, special in parts:
            if weights:
                common = {"params": weights, "weight_decay": player.weight_decay, "maximize": player.maximize}
                groups.append(common | special)
                rates.append(player.learning_rate)
    # The schedule's factor is the rate itself.
    return (Lars if name == "lars" else MuonSGD)(groups, lr=1.0, momentum=0.9), rates


class MuonSGD(torch.optim.SGD):
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
        scale = 0.2 * max(matrix.shape) ** 0.5
        return orthogonalized(matrix).mul_(scale).view_as(weight)


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U Σ Vᵀ, by five steps X ← (a + b X Xᵀ + c (X Xᵀ)²) X from X / ‖X‖ (Jordan et al. 2024).

    All steps are polynomials of the first X Xᵀ, so they are multiplied out on that square matrix, whose side is the
    shorter one, and applied to X once: for a convolution of ResNet-18's last stage, 512 × 4608, in 0.4 of the time.

    Args:
        matrix: [M, N]; the result has the same shape.
    """
    a, b, c = NEWTON_SCHULZ
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    gram = x @ x.T  # [m, m], m = min(M, N)
    product: Tensor | None = None
    for number in range(ITERATIONS):
        step = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal().add_(a)
        product = step if product is None else step @ product
        if number < ITERATIONS - 1:
            gram = step @ gram @ step
    assert product is not None
    orthogonal: Tensor = product @ x
    return (orthogonal.T if tall else orthogonal).contiguous()
