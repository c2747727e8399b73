"""BYOL: Bootstrap Your Own Latent (Grill et al. 2020, arXiv 2006.07733).

    L = 2 − 2 cos(p(z₀), z'₁) + 2 − 2 cos(p(z₁), z'₀)

z are the encoder's projections of the two views, z' those of a target network, which is a moving average of the
encoder, and p is a predictor. There are no negatives.

Departure from the published code: the last linear layer of a head has a bias, and the first, before
BatchNorm, has none.

Shapes: n images of a rank, D width.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, Never

import torch
from torch import nn

from adco.config import defaults
from adco.config.checks import require
from adco.config.pretrain import PretrainSettings, RunLength
from adco.config.topics import TO_BE_CHOSEN, Optimizer, Unset
from adco.data.batch import Batch
from adco.losses.contrastive import negative_cosine
from adco.methods.method import Method, MethodArguments, StepOutput
from adco.models.encoder import Encoder, mlp, unit
from adco.models.momentum import MomentumEncoder, rising_decay
from adco.optim.players import Player


@dataclass(frozen=True, kw_only=True)
class BYOLSettings(PretrainSettings[Unset], Generic[Unset]):
    """Predicts a momentum encoder's embedding of the other view; no negatives.

    The paper uses batches of 4096. BatchNorm uses the statistics of all devices.

    Args:
        ema_decay: of the target network at the start; it rises to 1 along a cosine (BYOL: 0.996). Chosen: such that the
            target network averages over a two-hundredth of the run at the start, between 0.9 and 0.996.
    """

    TOPIC: ClassVar[str] = "byol"
    OPTIMIZER: ClassVar[Optimizer] = "lars"
    LEARNING_RATE: ClassVar[float] = 0.2
    WARMUP_EPOCHS: ClassVar[float] = 10.0
    WEIGHT_DECAY: ClassVar[float] = 1.5e-6
    MUON_LEARNING_RATE: ClassVar[float] = 0.1
    MARKER: ClassVar[str] = "D"

    method: Literal["byol"] = "byol"
    ema_decay: float | Unset = TO_BE_CHOSEN
    dim: int = 256
    hidden: int = 4096

    def check(self) -> None:
        super().check()
        require(self, "ema_decay", at_least=0, at_most=1)

    def choose(self, run: RunLength) -> dict[str, Any]:
        return super().choose(run) | {"ema_decay": defaults.ema_decay(run.steps, published=0.996)}

    def build(self: "BYOLSettings[Never]", backbone: nn.Module, width: int, common: MethodArguments) -> "BYOL":
        projector = mlp(width, self.hidden, self.dim, batch_norm=True)
        predictor = mlp(self.dim, self.hidden, self.dim, batch_norm=True)
        return BYOL(Encoder(backbone, projector), predictor, common, ema_decay=self.ema_decay)


class BYOL(Method):
    """Prediction of the projections of a moving average of the encoder.

    Args:
        encoder: images → projections [n, D].
        predictor: projections → predictions [n, D].
        common: as of `Method`.
        ema_decay: of the target network at the start; it rises to 1 along a cosine.
    """

    def __init__(
        self, encoder: Encoder, predictor: nn.Module, common: MethodArguments, *, ema_decay: float = 0.996
    ) -> None:
        super().__init__(encoder, common)
        self.target = MomentumEncoder(self.encoder)
        self.predictor, self.ema_decay = predictor, ema_decay

    def players(self) -> list[Player]:
        projector, *backbone = super().players()  # if both learn at the same rate, the first has the whole encoder
        return [replace(projector, parameters=[*projector.parameters, *self.predictor.parameters()]), *backbone]

    def step(self, batch: Batch) -> StepOutput:
        if batch.position % self.accumulate == 0 and batch.position:  # after the optimizer's last step
            step = batch.position // self.accumulate - 1
            self.target.update(self.encoder, rising_decay(self.ema_decay, step, self.schedule.steps))
        views = [self.prepare(view) for view in batch.views]
        targets = [self.target(view) for view in views]  # each [n, D]
        projections = [self.encoder.project(view) for view in views]
        losses = [
            2 + 2 * negative_cosine(self.predictor(projection), target)
            for projection, target in zip(projections, reversed(targets), strict=True)
        ]
        return StepOutput({"loss": torch.stack(losses).sum()}, unit(projections[0].detach()), targets[1])
