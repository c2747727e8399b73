"""SimCLR (Chen et al. 2020, arXiv 2002.05709).

    L = −1/2N Σ_i log  exp(z_i·z_i'/τ) / Σ_{j≠i} exp(z_i·z_j/τ)

over the 2N embeddings of both views, i' the other view of i's image. Departure from the published code: the projector's
last BatchNorm has a shift.

Shapes: n images of a rank, N of all ranks, D width.
"""

from typing import Any

import torch
from torch import nn

from adco.data.loader import Batch
from adco.distributed import gather_with_gradient, rank
from adco.encoder import Encoder, mlp
from adco.losses import nt_xent
from adco.methods.method import Method, Step
from adco.settings import SimCLRSettings


class SimCLR(Method):
    """Contrast with the other images of a large batch.

    Args:
        encoder: images → unit-norm embeddings [n, D].
        temperature: τ.
        method_arguments: the others of `Method`.
    """

    def __init__(self, encoder: Encoder, *, temperature: float = 0.1, **method_arguments: Any) -> None:
        super().__init__(encoder, **method_arguments)
        self.temperature = temperature

    @classmethod
    def build(cls, settings: SimCLRSettings, backbone: nn.Module, width: int, **method_arguments: Any) -> "SimCLR":
        """From settings, for a backbone with features of this width."""
        projector = mlp(width, settings.hidden, settings.dim, batch_norm=True, output_norm=True)
        return cls(Encoder(backbone, projector), temperature=settings.temperature, **method_arguments)

    def step(self, batch: Batch) -> Step:
        both = torch.cat(batch.views)  # one batch for BatchNorm, as published
        first, second = self.encoder(self.prepare(both)).chunk(2)  # each [n, D]
        loss = nt_xent(
            first,
            second,
            gather_with_gradient(first),
            gather_with_gradient(second),
            temperature=self.temperature,
            first_positive=rank() * len(batch.indices),
        )
        return Step({"loss": loss}, first.detach(), second.detach())
