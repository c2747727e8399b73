"""Images with structure at all scales, as photographs have, and a small network with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NETWORK: dict[str, Any] = {"backbone": "test_resnet", "image_size": 32, "device": "cpu"}


def photograph(number: int, side: int = 64) -> NDArray[np.uint8]:
    """Return one of any number of different images, [side, side, 3]: noise of coarse and fine grain."""
    rng = np.random.default_rng(number)
    layers = []
    for grain, strength in ((3, 60), (6, 40), (12, 30), (24, 15)):
        noise = rng.integers(0, 256, (grain, grain, 3), np.uint8)
        layer = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        layers.append((np.asarray(layer, np.float64) / 255 - 0.5) * strength * 2)
    return np.clip(127 + sum(layers), 0, 255).astype(np.uint8)


def write_photographs(folder: Path, numbers: range) -> None:
    """Write photographs as PNG files, named by their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(photograph(number)).save(folder / f"{number:04}.png")
