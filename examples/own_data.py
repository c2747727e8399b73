"""A data set of your own: a function that returns arrays, and one line.

    python examples/own_data.py

A folder of images needs none of this: adco pretrain photos/
"""

import numpy as np

import adco
from adco.data.sources.registry import NAMED, Loaded, Split


def shapes(split: Split) -> Loaded:
    """Return filled squares and discs: uint8 images [n, 32, 32, 3], labels [n], and the names of the classes."""
    count = 512 if split == "train" else 128
    random = np.random.default_rng([0, split == "train"])
    y, x = np.mgrid[:32, :32]
    images, labels = np.empty((count, 32, 32, 3), np.uint8), random.integers(0, 2, count)
    for image, label in zip(images, labels, strict=True):
        top, left, radius = random.integers(8, 24), random.integers(8, 24), random.integers(4, 9)
        distance = np.maximum(abs(y - top), abs(x - left)) if label == 0 else np.hypot(y - top, x - left)
        image[:] = np.where(distance[..., None] <= radius, random.integers(128, 256, 3), random.integers(0, 96, 3))
    return images, labels, ("square", "disc")


NAMED["shapes"] = shapes

if __name__ == "__main__":
    run = adco.pretrain(data="shapes", epochs=10)
    print(adco.evaluate("knn", run)["top1"])
