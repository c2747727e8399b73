"""A network, settings and images that are small enough for tests. To import this file makes `few` a data set."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adco.data.sources.arrays import ArraySource
from adco.data.sources.digits import digits
from adco.data.sources.registry import NAMED, Loaded, Split
from adco.models.backbone import BackboneInfo, build_backbone, save_backbone
from adco.runs.directory import RunDirectory

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


def untrained_run(path: Path, *, data: str, seed: int = 0, image_size: int = 8) -> RunDirectory:
    """A run directory with the backbone of a run before its first step."""
    run = RunDirectory.create(path)
    info = BackboneInfo("resnet18", image_size, (0.5,) * 3, (0.25,) * 3, NETWORK, "cifar")
    torch.manual_seed(seed)
    save_backbone(run.backbone, build_backbone(info), info)
    about = {"backbone": info.name, "backbone_args": NETWORK, "mean": [0.5] * 3, "std": [0.25] * 3, "stem": info.stem}
    run.write_config({"method": "adco", "data": data, "class_level": 0, **about, "test_image_size": image_size})
    return run


@cache
def stripes(split: Split) -> Loaded:
    """Images of vertical, horizontal and diagonal stripes in noise, 40 of each for training and 20 for testing."""
    draw, number = np.random.default_rng(split == "test"), 20 if split == "test" else 40
    rows, columns = np.mgrid[:8, :8]
    images, labels = [], []
    for label, places in enumerate((columns, rows, rows + columns)):
        for shift in draw.integers(0, 4, number):
            pixels = 90 + 70 * ((places + shift) % 4 < 2) + draw.integers(0, 90, (8, 8))
            images.append(np.repeat(pixels[..., None], 3, axis=2))
            labels.append(label)
    return np.array(images, np.uint8), np.array(labels), ("vertical", "horizontal", "diagonal")


NAMED["stripes"] = stripes
