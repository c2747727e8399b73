"""SimSiam (Chen & He 2021, arXiv 2011.10566).

    L = −½ cos(p(z₀), z₁) − ½ cos(p(z₁), z₀),   no gradient through the second of each pair

z are the encoder's projections of the two views, p is a predictor. There are neither negatives nor a second encoder.
Departure from the published code: the BatchNorm after the projector's last layer has a scale and a shift.

Shapes: n images of a rank, D width.
"""

from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Never

import torch
from torch import nn

from adco.config.checks import require
from adco.config.pretrain import PretrainSettings
from adco.config.topics import Unset
from adco.data.batch import Batch
from adco.losses.contrastive import negative_cosine
from adco.methods.method import Method, MethodArguments, StepOutput
from adco.models.encoder import Encoder, mlp, unit
from adco.optim.players import Player


@dataclass(frozen=True, kw_only=True)
class SimSiamSettings(PretrainSettings[Unset], Generic[Unset]):
    """Predicts the embedding of the other view; neither negatives nor a momentum encoder.

    BatchNorm uses the statistics of all devices.

    Args:
        predictor_hidden: width of the predictor's hidden layer (SimSiam). The predictor's learning rate is constant.
    """

    TOPIC: ClassVar[str] = "simsiam"
    LEARNING_RATE: ClassVar[float] = 0.05
    MARKER: ClassVar[str] = "v"

    method: Literal["simsiam"] = "simsiam"
    dim: int = 2048
    predictor_hidden: int = 512

    def check(self) -> None:
        super().check()
        require(self, "predictor_hidden", at_least=1)

    def build(self: "SimSiamSettings[Never]", backbone: nn.Module, width: int, common: MethodArguments) -> "SimSiam":
        projector = mlp(width, self.hidden, self.hidden, self.dim, batch_norm=True, output_norm=True)
        predictor = mlp(self.dim, self.predictor_hidden, self.dim, batch_norm=True)
        return SimSiam(Encoder(backbone, projector), predictor, common)


class SimSiam(Method):
    """Prediction of the projection of the other view.

    Args:
        encoder: images → projections [n, D].
        predictor: projections → predictions [n, D]; its learning rate is constant.
        common: as of `Method`.
    """

    def __init__(self, encoder: Encoder, predictor: nn.Module, common: MethodArguments) -> None:
        super().__init__(encoder, common)
        self.predictor = predictor

    def players(self) -> list[Player]:
        predictor = Player(
            parameters=self.predictor.parameters(),
            learning_rate=lambda step: self.schedule.peak,
            weight_decay=self.weight_decay,
        )
        return [*super().players(), predictor]

    def step(self, batch: Batch) -> StepOutput:
        first, second = (self.encoder.project(self.prepare(view)) for view in batch.views)  # each [n, D]
        losses = [
            negative_cosine(self.predictor(first), second.detach()),
            negative_cosine(self.predictor(second), first.detach()),
        ]
        return StepOutput({"loss": torch.stack(losses).mean()}, unit(first.detach()), unit(second.detach()))
