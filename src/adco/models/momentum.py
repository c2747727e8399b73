"""The momentum encoder: a moving average of the encoder that computes the keys (He et al. 2020, arXiv 1911.05722)."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def rising_decay(start: float, step: int, steps: int) -> float:
    """Return a decay that rises to 1 along half a cosine: 1 − (1 − m)(cos(π k/K) + 1)/2 in step k of K (BYOL)."""
    return 1 - (1 - start) * (math.cos(math.pi * step / steps) + 1) / 2


class MomentumEncoder(nn.Module):
    """A frozen deep copy of an encoder whose parameters follow the encoder's as an exponential moving average.

    Only parameters are averaged. The copy runs in train mode and updates BatchNorm's running statistics from its own
    batches.

    Args:
        encoder: the encoder to copy.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings [N, D] of images [N, 3, S, S], without gradient."""
        with torch.no_grad():
            embeddings: Tensor = self.encoder(x)
        return embeddings

    @torch.no_grad()
    def update(self, encoder: nn.Module, decay: float) -> None:
        """Update the copy's parameters θ_k from the encoder's θ_q: θ_k ← m θ_k + (1−m) θ_q, with m = `decay`."""
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.encoder.parameters()), list(encoder.parameters()), 0)  # the number of averages is not used
