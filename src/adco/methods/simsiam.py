"""SimSiam (Chen & He 2021, arXiv 2011.10566).

    L = −½ cos(p(z₀), z₁) − ½ cos(p(z₁), z₀),   no gradient through the second of each pair

z are the encoder's projections of the two views, p is a predictor. There are neither negatives nor a second encoder.
Departure from the published code: the BatchNorm behind the projector's last layer has a scale and a shift.

Shapes: n images of a rank, D width.
"""

from typing import Any

import torch
from torch import nn

from adco.data.loader import Batch
from adco.encoder import Encoder, mlp, unit
from adco.losses import negative_cosine
from adco.methods.method import Method, Step
from adco.optimizers import Player
from adco.settings import SimSiamSettings


class SimSiam(Method):
    """Prediction of the other view's projection.

    Args:
        encoder: images → projections [n, D].
        predictor: projections → predictions [n, D]; its learning rate is constant.
        method_arguments: the others of `Method`.
    """

    def __init__(self, encoder: Encoder, predictor: nn.Module, **method_arguments: Any) -> None:
        super().__init__(encoder, **method_arguments)
        self.predictor = predictor

    @classmethod
    def build(cls, settings: SimSiamSettings, backbone: nn.Module, width: int, **method_arguments: Any) -> "SimSiam":
        """From settings, for a backbone with features of this width."""
        widths = (width, settings.hidden, settings.hidden, settings.dim)
        encoder = Encoder(backbone, mlp(*widths, batch_norm=True, output_norm=True))
        predictor = mlp(settings.dim, settings.predictor_hidden, settings.dim, batch_norm=True)
        return cls(encoder, predictor, **method_arguments)

    def players(self) -> list[Player]:
        predictor = Player(
            parameters=self.predictor.parameters(),
            learning_rate=lambda step: self.schedule.peak,
            weight_decay=self.weight_decay,
        )
        return [*super().players(), predictor]

    def step(self, batch: Batch) -> Step:
        first, second = (self.encoder.project(self.prepare(view)) for view in batch.views)  # each [n, D]
        losses = [
            negative_cosine(self.predictor(first), second.detach()),
            negative_cosine(self.predictor(second), first.detach()),
        ]
        return Step({"loss": torch.stack(losses).mean()}, unit(first.detach()), unit(second.detach()))
