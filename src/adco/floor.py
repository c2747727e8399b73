"""Is it better than the untrained network? What tracks accuracy, beside the same of random weights."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from adco.trends import WINDOW, Record, curve, latest

# Records of instance top-1, one batch each, before their mean is compared.
FEW = 6


class Floor(NamedTuple):
    """What tracks accuracy, beside the same of the untrained network; all in %."""

    name: str
    now: float
    random: float
    source: str  # what `random` is of
    noise: float  # two standard errors of their difference

    @property
    def is_above(self) -> bool:
        return self.now - self.random > self.noise

    @property
    def is_below(self) -> bool:
        return self.random - self.now > self.noise

    def __str__(self) -> str:
        return f"{self.name} {self.now:.1f} %, {self.source} {self.random:.1f} %"


def floor_of(history: Sequence[Record]) -> Floor | None:
    """kNN where there are labels, else how often a query finds its own key; None before there is either."""
    knn, random = latest(history, "knn_top1"), latest(history, "knn_top1_random")
    if not math.isnan(knn):
        return Floor("kNN", knn, random, "random weights", _noise(knn, random, latest(history, "knn_queries")))
    hits = curve(history, "instance_top1")
    if len(hits) < FEW:
        return None
    now, first, chance = float(hits[-WINDOW:].mean()), float(hits[0]), latest(history, "instance_chance")
    random, source = (first, "the first step") if first >= chance else (chance, "chance")
    images = 100 / chance  # of the batch
    return Floor("instance top-1", now, random, source, _noise(now, random, images))


def _noise(first: float, second: float, images: float) -> float:
    """Two standard errors of a difference in % between two networks on the same images, whose hits correlate by ½; at
    least those of one hit, or of one miss."""
    p = min(max((first + second) / 200, 1 / images), 1 - 1 / images)
    return 200 * math.sqrt(p * (1 - p) / images)
