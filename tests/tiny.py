"""A network, settings and images that are small enough for tests. To import this file makes `few` a data set."""

from functools import cache
from typing import Any

import numpy as np

from adco.data.sources.arrays import ArraySource
from adco.data.sources.digits import digits
from adco.data.sources.registry import NAMED, Loaded, Split

NETWORK: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}  # a ResNet of 20 000 weights
SETTINGS: dict[str, Any] = {"backbone_args": NETWORK, "hidden": 32, "accelerator": "cpu"}


@cache
def few(split: Split) -> Loaded:
    """The first hundred digits of a split, for runs of a second."""
    images, labels, classes = digits(split)
    return images[:100], labels[:100], classes


NAMED["few"] = few


def black(count: int, height: int, width: int) -> ArraySource:
    """So many black images, without memory for them."""
    return ArraySource("black", np.broadcast_to(np.uint8(0), (count, height, width, 3)), None, ())
