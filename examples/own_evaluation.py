"""An evaluation of your own: nearest class centre (Mensink et al. 2013), in one file and one line.

    python examples/own_evaluation.py

An image is of the class whose mean training feature is nearest. Unlike the linear probe it fits nothing, and needs only
a few labelled images of each class.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

import adco
from adco.evaluation.evaluation import Evaluation
from adco.evaluation.features import Features
from adco.evaluation.registry import EVALUATIONS


@dataclass(frozen=True, kw_only=True)
class NearestCentre(Evaluation):
    """Classify each image by the nearest mean feature of a class.

    Args:
        normalise: whether to divide features by their length first, so that the angle alone counts.
    """

    NAME: ClassVar[str] = "centre"
    TITLE: ClassVar[str] = "nearest centre"

    normalise: bool = True

    def classify(
        self, train: Features, test: torch.Tensor, classes: int, device: torch.device | str
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        known, asked = train.features.to(device), test.to(device)
        if self.normalise:
            known, asked = F.normalize(known), F.normalize(asked)
        centres = torch.stack([known[train.labels == label].mean(0) for label in range(classes)])  # [C, F]
        return -torch.cdist(asked, centres), {"normalise": self.normalise}


EVALUATIONS["centre"] = NearestCentre

if __name__ == "__main__":
    run = adco.pretrain(data="digits", epochs=5)
    print(adco.evaluate("centre", run)["top1"])
