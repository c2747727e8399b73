"""The momentum encoder: a slow copy that makes the keys (He et al. 2020, arXiv 1911.05722)."""

import copy

import torch
from torch import Tensor, nn


class MomentumEncoder(nn.Module):
    """A frozen deep copy of an encoder, weights and buffers, that follows it as a moving average.

    BatchNorm's running statistics are its own: it runs in train mode and keeps them from its own batches.

    Args:
        encoder: what to copy and follow.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] → [N, D], without gradient."""
        with torch.no_grad():
            embeddings: Tensor = self.encoder(x)
        return embeddings

    @torch.no_grad()
    def update(self, encoder: nn.Module, decay: float) -> None:
        """Move the copy's parameters towards the encoder's: θ_k ← m θ_k + (1−m) θ_q."""
        torch._foreach_lerp_(list(self.encoder.parameters()), list(encoder.parameters()), 1 - decay)
