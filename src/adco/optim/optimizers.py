"""Optimizers (SGD, Muon, AdamW, LARS) for groups of parameters with different learning rates."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from timm.optim.lars import Lars
from torch import Tensor, nn

from adco.optim.adamw import AdamWSGD
from adco.optim.directed import DirectedSGD
from adco.optim.players import Player

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
ITERATIONS = 5


def make_optimizer(name: str, players: Iterable[Player]) -> tuple[torch.optim.Optimizer, list[Callable[[int], float]]]:
    """Return one optimizer for all players, and the learning-rate function of each of its parameter groups.

    The momentum is 0.9, as in the papers.

    Args:
        name: "sgd", "muon", "adamw" or "lars". Muon and LARS change the steps of matrices only, the weights of linear
            and convolutional layers; vectors (biases, norms, position embeddings, tokens) get SGD steps. LARS and AdamW
            have no weight decay for vectors. LARS is You et al. 2017 (arXiv 1708.03888), with a trust coefficient of
            0.001 as in SimCLR and BYOL (timm's default).
        players: those that maximize are always trained by SGD.

    Raises:
        ValueError: if a player maximizes and the optimizer is lars.
    """
    groups: list[dict[str, Any]] = []
    rates = []
    for player in players:
        parameters = list(player.parameters)
        vectors = [w for w in parameters if w.ndim <= 1 or w in player.vectors]
        matrices = [w for w in parameters if w.ndim > 1 and w not in player.vectors]
        parts: list[tuple[list[nn.Parameter], dict[str, Any]]] = [(parameters, {})]
        if name == "lars":
            if player.maximize:
                raise ValueError("optimizer lars cannot maximize a loss: use sgd, muon or adamw")
            parts = [(matrices, {"always_adapt": True}), (vectors, {"weight_decay": 0.0})]
        elif name == "muon" and not player.maximize:
            parts = [(matrices, {"orthogonal": True}), (vectors, {})]
        elif name == "adamw" and not player.maximize:
            parts = [(matrices, {"adaptive": True}), (vectors, {"adaptive": True, "weight_decay": 0.0})]
        for weights, special in parts:
            if weights:
                common = {"params": weights, "weight_decay": player.weight_decay, "maximize": player.maximize}
                if player.maximize:  # the same step in one pass, which takes a sixth of the time for many adversaries
                    common["fused"] = True
                groups.append(common | special)
                rates.append(player.learning_rate)
    # lr is 1 because the scheduler multiplies it by the learning rate of each step.
    kinds: dict[str, type[Lars | MuonSGD | AdamWSGD]] = {"lars": Lars, "adamw": AdamWSGD}
    return kinds.get(name, MuonSGD)(groups, lr=1.0, momentum=0.9), rates


def with_schedule(name: str, players: Iterable[Player]) -> dict[str, Any]:
    """Return for Lightning the optimizer of `make_optimizer`, and the schedule that sets its rates before each step."""
    optimizer, rates = make_optimizer(name, players)
    # LambdaLR does not save plain functions, so a resumed run follows the schedule of its own settings.
    factors: list[Callable[[int], float]] = [lambda step, rate=rate: rate(step) for rate in rates]  # type: ignore[misc]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class MuonSGD(DirectedSGD):
    """SGD, with Muon steps (Jordan et al. 2024) for parameter groups marked `orthogonal`.

    A weight [out, ...] of such a group is flattened to a matrix [out, in]. Its Nesterov momentum M = U Σ Vᵀ is replaced
    by an approximation of U Vᵀ, in which all singular values are equal. The result is scaled by 0.2 √max(out, in), so
    that learning rates are comparable to AdamW's (Liu et al. 2025, arXiv 2502.16982, section 2.2). Weight decay is
    decoupled: it is added to this step, not to the gradient. All other groups get plain SGD steps.

    Args:
        groups: as for torch.optim.SGD, with an optional bool `orthogonal`. Orthogonal groups may only contain weights
            with two or more dimensions, and cannot maximize.
        lr, momentum: defaults for all groups.

    Raises:
        ValueError: if an orthogonal group contains a weight with fewer than two dimensions, or maximizes.
    """

    MARK = "orthogonal"

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float = 0.9) -> None:
        for group in groups:
            if group.setdefault("orthogonal", False):
                if group.get("maximize") or any(weight.ndim < 2 for weight in group["params"]):
                    raise ValueError("orthogonal groups need weights with two or more dimensions and cannot maximize")
                # Momentum is applied before orthogonalisation, not by SGD.
                group |= {"momentum": 0.0, "orthogonal_momentum": momentum}
        super().__init__(groups, lr=lr, momentum=momentum)

    def directions(self, weights: Sequence[nn.Parameter], group: dict[str, Any]) -> Sequence[Tensor]:
        orthogonal = orthogonalized([self._momentum(weight, group).flatten(1) for weight in weights])
        scales = [0.2 * max(matrix.shape) ** 0.5 for matrix in orthogonal]
        return [x.mul_(scale).view_as(w) for x, scale, w in zip(orthogonal, scales, weights, strict=True)]

    def _momentum(self, weight: nn.Parameter, group: dict[str, Any]) -> Tensor:
        """Add the gradient to the weight's moving average and return its Nesterov momentum."""
        state, momentum = self.state[weight], group["orthogonal_momentum"]
        assert weight.grad is not None
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        state["average"].mul_(momentum).add_(weight.grad)
        return torch.add(weight.grad, state["average"], alpha=momentum)


def orthogonalized(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Approximate U Vᵀ of each matrix U Σ Vᵀ by five Newton–Schulz iterations (Jordan et al. 2024).

    Each iteration is X ← (a + b X Xᵀ + c (X Xᵀ)²) X, starting from X / ‖X‖. All of them are polynomials in the initial
    X Xᵀ. Their product is therefore computed on this smaller square matrix and applied to X once. For a convolution of
    ResNet-18's last stage (512 × 4608) this takes 0.4 of the time. Square matrices of the same size are multiplied
    together, because a GPU takes longer to start so many small products than to compute them.

    Args:
        matrices: each [M, N], in float32 or wider; the results have the same shapes.
    """
    wide = [matrix.T if len(matrix) > matrix.shape[1] else matrix for matrix in matrices]
    scaled = [x / x.norm().clamp(min=1e-7) for x in wide]
    results = list[Tensor](scaled)
    for size in {len(x) for x in scaled}:
        members = [number for number, x in enumerate(scaled) if len(x) == size]
        products = _newton_schulz(torch.stack([scaled[number] @ scaled[number].T for number in members]))
        for number, product in zip(members, products, strict=True):
            results[number] = product @ scaled[number]
    tall = [len(matrix) > matrix.shape[1] for matrix in matrices]
    return [(x.T if turned else x).contiguous() for x, turned in zip(results, tall, strict=True)]


def _newton_schulz(grams: Tensor) -> Tensor:
    """Return the product of the polynomials of all iterations, as a function of the initial X Xᵀ: both [B, M, M]."""
    a, b, c = NEWTON_SCHULZ
    product: Tensor | None = None
    for number in range(ITERATIONS):
        step = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
        step.diagonal(dim1=1, dim2=2).add_(a)
        product = step if product is None else step @ product
        if number < ITERATIONS - 1:
            grams = step @ grams @ step
    assert product is not None
    return product
