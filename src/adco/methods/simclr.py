"""SimCLR (Chen et al. 2020, arXiv 2002.05709).

    L = −1/2N Σ_i log  exp(z_i·z_i'/τ) / Σ_{j≠i} exp(z_i·z_j/τ)

over the 2N embeddings of both views; i' is the other view of i's image. Departure from the published code: the
projector's last BatchNorm has a shift.

Shapes: n images of a rank, N of all ranks, D width.
"""

from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Never

import torch
from torch import nn

from adco.config.checks import require
from adco.config.pretrain import PretrainSettings
from adco.config.topics import Optimizer, Unset
from adco.data.batch import Batch
from adco.distributed import gather_with_gradient, rank
from adco.losses.contrastive import nt_xent
from adco.methods.method import Method, MethodArguments, StepOutput
from adco.models.encoder import Encoder, mlp


@dataclass(frozen=True, kw_only=True)
class SimCLRSettings(PretrainSettings[Unset], Generic[Unset]):
    """Contrast with the other images of the batch.

    The paper uses batches of 8192. BatchNorm uses the statistics of all devices.

    Args:
        temperature: temperature of the loss (SimCLR).
    """

    TOPIC: ClassVar[str] = "simclr"
    OPTIMIZER: ClassVar[Optimizer] = "lars"
    LEARNING_RATE: ClassVar[float] = 0.3
    WARMUP_EPOCHS: ClassVar[float] = 10.0
    WEIGHT_DECAY: ClassVar[float] = 1e-6
    MUON_LEARNING_RATE: ClassVar[float] = 0.2
    MARKER: ClassVar[str] = "^"

    method: Literal["simclr"] = "simclr"
    temperature: float = 0.1

    def check(self) -> None:
        super().check()
        require(self, "temperature", above=0)

    def build(self: "SimCLRSettings[Never]", backbone: nn.Module, width: int, common: MethodArguments) -> "SimCLR":
        projector = mlp(width, self.hidden, self.dim, batch_norm=True, output_norm=True)
        return SimCLR(Encoder(backbone, projector), common, temperature=self.temperature)


class SimCLR(Method):
    """Contrast with the other images of a large batch.

    Args:
        encoder: images → unit-norm embeddings [n, D].
        common: as of `Method`.
        temperature: τ.
    """

    def __init__(self, encoder: Encoder, common: MethodArguments, *, temperature: float = 0.1) -> None:
        super().__init__(encoder, common)
        self.temperature = temperature

    def step(self, batch: Batch) -> StepOutput:
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
        return StepOutput({"loss": loss}, first.detach(), second.detach())
