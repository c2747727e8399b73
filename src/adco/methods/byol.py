"""BYOL: Bootstrap Your Own Latent (Grill et al. 2020, arXiv 2006.07733).

    L = 2 − 2 cos(p(z₀), z'₁) + 2 − 2 cos(p(z₁), z'₀)

z are the encoder's projections of the two views, z' those of a target network, an average of the encoder over time, and
p is a predictor. There are no negatives.

Departure from the published code: the last linear layer of a head has a bias, and the first, before
BatchNorm, has none.

Shapes: n images of a rank, D width.
"""

import math
from typing import Any

import torch
from torch import nn

from adco.data.loader import Batch
from adco.encoder import Encoder, mlp, unit
from adco.losses import negative_cosine
from adco.methods.method import Method, Step
from adco.momentum import MomentumEncoder
from adco.optimizers import Player
from adco.settings import BYOLSettings, known


class BYOL(Method):
    """Prediction of a slower copy's projections.

    Args:
        encoder: images → projections [n, D].
        predictor: projections → predictions [n, D].
        ema_decay: of the target network at the start; it rises to 1 along a cosine.
        method_arguments: the others of `Method`.
    """

    def __init__(
        self, encoder: Encoder, predictor: nn.Module, *, ema_decay: float = 0.996, **method_arguments: Any
    ) -> None:
        super().__init__(encoder, **method_arguments)
        self.target = MomentumEncoder(self.encoder)
        self.predictor, self.ema_decay = predictor, ema_decay

    @classmethod
    def build(cls, settings: BYOLSettings, backbone: nn.Module, width: int, **method_arguments: Any) -> "BYOL":
        """From settings, for a backbone with features of this width."""
        projector = mlp(width, settings.hidden, settings.dim, batch_norm=True)
        predictor = mlp(settings.dim, settings.hidden, settings.dim, batch_norm=True)
        return cls(Encoder(backbone, projector), predictor, ema_decay=known(settings.ema_decay), **method_arguments)

    def players(self) -> list[Player]:
        return [self.player([*self.encoder.parameters(), *self.predictor.parameters()])]

    def step(self, batch: Batch) -> Step:
        if batch.position % self.accumulate == 0 and batch.position:  # after the optimizer's last step
            self.target.update(self.encoder, self.ema_decay_after(batch.position // self.accumulate - 1))
        views = [self.prepare(view) for view in batch.views]
        targets = [self.target(view) for view in views]  # each [n, D]
        projections = [self.encoder.project(view) for view in views]
        losses = [
            2 + 2 * negative_cosine(self.predictor(projection), target)
            for projection, target in zip(projections, reversed(targets), strict=True)
        ]
        return Step({"loss": torch.stack(losses).sum()}, unit(projections[0].detach()), targets[1])

    def ema_decay_after(self, step: int) -> float:
        """1 − (1 − m)(cos(π k/K) + 1)/2 after step k of K."""
        return 1 - (1 - self.ema_decay) * (math.cos(math.pi * step / self.schedule.steps) + 1) / 2
