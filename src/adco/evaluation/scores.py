"""Evaluation results from class scores and labels: accuracies and confusion matrix.

Shapes: m test images, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from adco.errors import InputError

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Scores:
    """The result of one evaluation; all accuracies in %.

    `top5` is None for fewer than six classes, where it would always be 100 %. `per_class` is None for a class without
    test images; `per_class_mean` is the unweighted mean over the other classes. `confusion` [C, C] counts images: rows
    are true classes, columns predicted classes. `protocol` records how the scores were computed.
    """

    top1: float
    top5: float | None
    per_class_mean: float
    per_class: dict[str, float | None]
    confusion: torch.Tensor
    images: int
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def majority(self) -> float:
        """Share of the largest class among the test images in %: the top-1 of always predicting that class."""
        return 100 * int(self.confusion.sum(dim=1).max()) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of top-1 in %, over the sampling of test images; the backbone is fixed."""
        return wilson_interval(self.top1, self.images)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain numbers, strings, lists and dicts."""
        return {
            "protocol": self.protocol,
            "images": self.images,
            "majority": self.majority,
            "top1": self.top1,
            "top1_interval": list(self.interval),
            "top5": self.top5,
            "per_class_mean": self.per_class_mean,
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
        }


def summarise(
    scores: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], protocol: dict[str, Any] | None = None
) -> Scores:
    """Compare scores [m, C] with the true labels [m] in 0..C−1; ties are ranked in the order of the classes.

    Raises InputError if a score is NaN, because sorting would rank it first.
    """
    if scores.isnan().any():
        raise InputError(f"scores of {int(scores.isnan().any(dim=1).sum())} of {len(scores)} images are NaN")
    scores, labels = scores.cpu(), labels.cpu()
    ranking = scores.argsort(dim=1, descending=True, stable=True)  # [m, C]
    hits = ranking == labels[:, None]  # [m, C]
    # bincount instead of torchmetrics, because importing torchmetrics takes longer than a whole kNN evaluation
    pairs = labels * len(classes) + ranking[:, 0]  # [m] index of (true, predicted) in the flattened confusion matrix
    confusion = pairs.bincount(minlength=len(classes) ** 2).view(len(classes), len(classes))
    images = confusion.sum(dim=1)
    per_class = 100 * confusion.diagonal().double() / images  # NaN for a class without images
    return Scores(
        top1=_percent(hits[:, 0]),
        top5=_percent(hits[:, :5].any(dim=1)) if len(classes) > 5 else None,
        per_class_mean=per_class.nanmean().item(),
        per_class={
            name: value if count else None
            for name, value, count in zip(classes, per_class.tolist(), images.tolist(), strict=True)
        },
        confusion=confusion,
        images=len(labels),
        protocol=protocol or {},
    )


def wilson_interval(percent: float, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % confidence interval of a proportion in %.

    Unlike the normal approximation, it is also valid near 0 and 100 %.
    """
    share, square = percent / 100, Z95**2 / images
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def _percent(hits: torch.Tensor) -> float:
    return 100 * hits.double().mean().item()
