"""Compare a run's accuracy with its floor: the accuracy of the network at its start, or chance.

Accuracy is kNN top-1 if there are labels, else instance top-1: how often a query's nearest key is its own.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from adco.health.trends import WINDOW, Record, curve, latest

# Instance top-1 is measured on single batches, so it is compared from this many records on.
MIN_RECORDS = 6


class Floor(NamedTuple):
    """The current accuracy and its floor, in %."""

    name: str  # kNN or instance top-1
    now: float
    random: float  # the floor
    source: str  # its origin: "random weights", "the weights it began from", "the first step" or "chance"
    noise: float  # two standard errors of now − random

    @property
    def is_above(self) -> bool:
        return self.now - self.random > self.noise

    @property
    def is_below(self) -> bool:
        return self.random - self.now > self.noise

    def __str__(self) -> str:
        return f"{self.name} {self.now:.1f} %, {self.source} {self.random:.1f} %"


def floor_of(history: Sequence[Record]) -> Floor | None:
    """Return kNN top-1 with its floor, or instance top-1 if there is no kNN; None before either is known."""
    knn, random, start = (latest(history, f"knn_top1{of}") for of in ("", "_random", "_start"))
    if not math.isnan(knn):
        floor, source = (random, "random weights") if math.isnan(start) else (start, "the weights it began from")
        return Floor("kNN", knn, floor, source, _noise(knn, floor, latest(history, "knn_queries")))
    hits = curve(history, "instance_top1")
    if len(hits) < MIN_RECORDS:
        return None
    now, first, chance = float(hits[-WINDOW:].mean()), float(hits[0]), latest(history, "instance_chance")
    random, source = (first, "the first step") if first >= chance else (chance, "chance")
    images = 100 / chance  # in a batch
    return Floor("instance top-1", now, random, source, _noise(now, random, images))


def _noise(first: float, second: float, images: float) -> float:
    """Return two standard errors of the difference between two accuracies on the same images, in %.

    The correct predictions of the two networks are assumed to have a correlation of ½. The mean accuracy is limited to
    at least one hit and at least one miss.
    """
    p = min(max((first + second) / 200, 1 / images), 1 - 1 / images)
    return 200 * math.sqrt(p * (1 - p) / images)
