"""A run's accuracy and its floor, the accuracy without training.

The accuracy is kNN top-1 if there are labels, and its floor is the kNN of the network before training. Without labels,
it is instance top-1 (how often a query's nearest key is its own), and its floor is the larger of chance and the value
at the first step.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from adco.health.trends import WINDOW, Record, curve, latest

# Instance top-1 is measured on single batches, so it is compared with its floor only once there are this many records.
MIN_RECORDS = 6


class AccuracyAndFloor(NamedTuple):
    """A run's latest accuracy and its floor, in %."""

    measure: str  # kNN or instance top-1
    now: float
    floor: float
    source: str  # of the floor: "random weights", "the initial weights", "the first step" or "chance"
    noise: float  # two standard errors of now − floor

    @property
    def is_above_floor(self) -> bool:
        return self.now - self.floor > self.noise

    @property
    def is_below_floor(self) -> bool:
        return self.floor - self.now > self.noise

    def __str__(self) -> str:
        return f"{self.measure} {self.now:.1f} %, {self.source} {self.floor:.1f} %"


def accuracy_and_floor(history: Sequence[Record]) -> AccuracyAndFloor | None:
    """Return kNN top-1 with its floor, else instance top-1 with its floor; None before either is known."""
    knn, random, start = (latest(history, f"knn_top1{of}") for of in ("", "_random", "_start"))
    if not math.isnan(knn):
        floor, source = (random, "random weights") if math.isnan(start) else (start, "the initial weights")
        return AccuracyAndFloor("kNN", knn, floor, source, _noise(knn, floor, latest(history, "knn_queries")))
    hits = curve(history, "instance_top1")
    if len(hits) < MIN_RECORDS:
        return None
    now, first, chance = float(hits[-WINDOW:].mean()), float(hits[0]), latest(history, "instance_chance")
    floor, source = (first, "the first step") if first >= chance else (chance, "chance")
    images = 100 / chance  # in a batch
    return AccuracyAndFloor("instance top-1", now, floor, source, _noise(now, floor, images))


def _noise(first: float, second: float, images: float) -> float:
    """Return two standard errors of the difference between two accuracies on the same images, in %.

    The correct predictions of the two networks are assumed to have a correlation of ½. The mean accuracy is limited to
    at least one hit and at least one miss.
    """
    mean = min(max((first + second) / 200, 1 / images), 1 - 1 / images)  # in 0 to 1
    return 200 * math.sqrt(mean * (1 - mean) / images)
