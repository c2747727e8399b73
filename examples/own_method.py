"""A method of your own: Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230) in one file and one line.

python examples/own_method.py
L = Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij²,   C the correlation of the two views' projections, over the batch
"""

from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Never

import torch
from torch import nn

import adco
from adco.config.pretrain import PretrainSettings
from adco.config.registry import METHODS
from adco.config.topics import Unset
from adco.data.batch import Batch
from adco.methods.method import Method, MethodArguments, StepOutput
from adco.models.encoder import Encoder, mlp, unit


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsSettings(PretrainSettings[Unset], Generic[Unset]):
    """Makes the dimensions of the embeddings equal between views and uncorrelated with each other.

    Args:
        off_diagonal: λ, the weight of the correlations between dimensions (Barlow Twins: 0.005).
    """

    TOPIC: ClassVar[str] = "barlow-twins"

    method: Literal["barlow-twins"] = "barlow-twins"
    off_diagonal: float = 0.005

    def build(self: "BarlowTwinsSettings[Never]", backbone: nn.Module, width: int, common: MethodArguments) -> Method:
        projector = mlp(width, self.hidden, self.dim, batch_norm=True, output_norm=True)
        return BarlowTwins(Encoder(backbone, projector), common, off_diagonal=self.off_diagonal)


class BarlowTwins(Method):
    """Redundancy reduction."""

    def __init__(self, encoder: Encoder, common: MethodArguments, *, off_diagonal: float) -> None:
        super().__init__(encoder, common)
        self.off_diagonal = off_diagonal

    def step(self, batch: Batch) -> StepOutput:
        first, second = (self.encoder.project(self.prepare(view)) for view in batch.views)  # [n, D], normalised
        with torch.autocast(first.device.type, enabled=False):  # a sum over the batch is too coarse in bf16
            correlation = first.float().T @ second.float() / len(first)  # [D, D]
        diagonal = correlation.diagonal()
        others = correlation.square().sum() - diagonal.square().sum()
        loss = (1 - diagonal).square().sum() + self.off_diagonal * others
        return StepOutput({"loss": loss}, unit(first.detach()), unit(second.detach()))


METHODS["barlow-twins"] = BarlowTwinsSettings

if __name__ == "__main__":
    run = adco.pretrain(method="barlow-twins", data="digits", epochs=5)
    print(adco.evaluate("knn", run)["top1"])
