"""Adversaries: negatives that are trained end to end to be as hard as possible (AdCo, arXiv 2011.08435).

The encoder minimises the contrastive loss, the adversaries maximise it:

    L(q, k, A; τ) = −1/N Σ_i log  exp(q_i·k_i/τ) / ( Σ_j exp(q_i·k_j/τ) + Σ_m exp(q_i·â_m/τ) ),   â = A / ‖A‖

Each has its own temperature, so there are two losses. The encoder's loss has no gradient for the adversaries, and the
adversaries' loss has none for the encoder. One backward pass of their sum therefore gives both gradients, at the same
values of all parameters.

Shapes: N queries of this rank, M keys of all ranks, K adversaries, c of them on this rank, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adco.losses.blockwise import TwoPlayerLoss, widened
from adco.processor import bf16_products
from adco.shards import Rows, Shards


class Adversaries(nn.Module):
    """A bank of trainable negatives, `weight` [K, D]. The loss normalises its rows.

    If several ranks train, each may keep only some of the rows (`rows.divide()`): `weight` is then [c, D].

    Train it with `torch.optim.SGD([{"params": adversaries.parameters(), "maximize": True}], lr=3.0, momentum=0.9,
    weight_decay=1e-4)`. These are the paper's values.

    Args:
        num_adversaries: K, the number of adversaries.
        dim: D, the width of the embeddings.

    Raises:
        ValueError: if either is below 1.
    """

    def __init__(self, num_adversaries: int, dim: int = 128) -> None:
        super().__init__()
        if num_adversaries < 1 or dim < 1:
            raise ValueError(f"num_adversaries and dim must be at least 1, got {num_adversaries} and {dim}")
        self.weight = nn.Parameter(F.normalize(torch.randn(num_adversaries, dim)))  # [K, D]
        self.rows = Rows(self, "weight")

    @torch.no_grad()
    def fill(self, keys: Tensor, start: int = 0) -> None:
        """Copy keys [M, D] into the rows from `start` on. Keys that would go past the last row are ignored."""
        own = self.rows.shards.own
        first, stop = max(start, own.start), min(start + len(keys), own.stop)
        if first < stop:
            self.weight[first - own.start : stop - own.start] = keys[first - start : stop - start]


class AdversarialLoss(NamedTuple):
    """The losses of encoder and adversaries, both scalars."""

    encoder: Tensor  # to minimise; differentiable in queries and keys only
    adversary: Tensor  # to maximise; differentiable in the adversaries only


def adversarial_info_nce(
    queries: Tensor,
    keys: Tensor,
    adversaries: Tensor,
    *,
    temperature: float,
    adversary_temperature: float,
    first_positive: int = 0,
    in_batch_negatives: bool = True,
    shards: Shards | None = None,
) -> AdversarialLoss:
    """Return the losses of encoder and adversaries. `(loss.encoder + loss.adversary).backward()` gives both gradients.

    Both are computed in one blockwise pass, in float32 or wider even under autocast. Under bf16 autocast on a processor
    that multiplies bf16, the matrix products are of bf16 values, added up in float32. The losses support one backward
    pass, and no second derivatives (`create_graph=True`).

    Args:
        queries: [N, D] unit-norm embeddings.
        keys: [M, D] unit-norm embeddings, M ≥ N; the positive of query i is row `first_positive` + i.
        adversaries: [K, D] rows of any norm; they are normalised here.
        temperature: τ of the encoder's loss (paper: 0.12; 0.14 with K = 8 192 and a symmetric loss).
        adversary_temperature: τ_adv of the adversaries' loss (paper: 0.02; 0.03 with K = 8 192 and a symmetric loss).
        first_positive: row of the first query's positive; N times the global rank if keys come from all ranks.
        in_batch_negatives: whether keys of other images are negatives too (published code: yes; the paper's formula:
            no).
        shards: if each rank passes only its own adversaries, [c, D], how they are divided: `Adversaries.rows.shards`.
            Then all ranks must call this, with as many queries each, and the adversaries' gradient is that of the mean
            over ranks of their losses.

    Raises:
        ValueError: if the shapes do not match, or a temperature is below 0.0016, where exp may overflow float64.
    """
    if not queries.shape[1] == keys.shape[1] == adversaries.shape[1]:
        raise ValueError(
            "queries, keys and adversaries must have the same width, "
            f"got {queries.shape[1]}, {keys.shape[1]} and {adversaries.shape[1]}"
        )
    if not 0 <= first_positive <= len(keys) - len(queries):
        raise ValueError(
            f"first_positive {first_positive} is out of range for {len(queries)} queries and {len(keys)} keys"
        )
    if not (temperature > 0 and adversary_temperature > 0):  # also raises for NaN
        raise ValueError(f"temperatures must be positive, got {temperature} and {adversary_temperature}")
    dtype = widened(queries.dtype, min(temperature, adversary_temperature))
    inputs = [tensor.to(dtype) for tensor in (queries, keys, adversaries)]
    if not torch.is_grad_enabled():
        inputs = [tensor.detach() for tensor in inputs]
    # With cosines rounded to bfloat16, the adversaries' gradient would be off by 15 % at τ_adv = 0.02. With embeddings
    # rounded to it, it is off by about one.
    with bf16_products(queries.device), torch.autocast(queries.device.type, enabled=False):
        losses = TwoPlayerLoss.apply(
            *inputs, temperature, adversary_temperature, first_positive, in_batch_negatives, shards
        )
    return AdversarialLoss(*losses)
