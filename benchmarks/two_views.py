"""Draw two views of images that are not RGB: 1 channel, 12-bit grey in a 16-bit PNG, and a TIFF of 13 bands.

    python benchmarks/two_views.py    # writes benchmarks/results/two_views.png

The images are made here: discs of different brightness on a gradient, in each band more or less. A row shows the image
as it is read, and two views of it; of 13 bands, the first and the last.
"""

import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from adco.data.sources import decode
from adco.data.sources.reading import Reading
from adco.data.views import View, views_of

SIDE, BANDS = 96, 13


def scene() -> NDArray[np.float64]:
    """Return discs on a gradient, [SIDE, SIDE], from 0 to 1."""
    y, x = np.mgrid[:SIDE, :SIDE]
    values: NDArray[np.float64] = (x + y) / (4 * SIDE)
    for place, (row, column, radius) in enumerate([(30, 30, 18), (60, 65, 22), (25, 75, 9), (75, 20, 12)]):
        values[np.hypot(y - row, x - column) < radius] = 0.4 + 0.2 * place
    return values


def write(folder: Path) -> list[tuple[str, Path, Reading]]:
    """Write one image of each kind. Return its name, its file, and how it is read."""
    values = scene()
    of_bands = np.stack([values ** (1 + band / 4) * 10_000 for band in range(BANDS)], 2)
    Image.fromarray((255 * values).astype(np.uint8)).save(folder / "grey.png")
    Image.fromarray((4095 * values).astype(np.uint16)).save(folder / "twelve.png")
    tifffile.imwrite(folder / "bands.tif", of_bands.astype(np.uint16), planarconfig="contig", photometric="minisblack")
    return [
        ("1 channel", folder / "grey.png", Reading(1)),
        ("12 bits in a 16-bit PNG,\nwhite_level 65535", folder / "twelve.png", Reading(1)),
        ("12 bits in a 16-bit PNG,\nwhite_level 4095", folder / "twelve.png", Reading(1, 4095)),
        ("13 bands, white_level 10000", folder / "bands.tif", Reading(BANDS, 10_000)),
    ]


def rows(folder: Path) -> list[tuple[str, list[NDArray[np.uint8]]]]:
    """Return the pictures of each row: the image and two views, each [H, W]."""
    found = []
    for name, path, reading in write(folder):
        image = decode.read(path, reading)
        views = views_of(image[None], [View(size=64, channels=reading.channels)] * 2, 1, np.array([0]), np.array([0]))
        pictures = [np.moveaxis(image, 2, 0), *(view[0].numpy() for view in views)]  # each [C, H, W]
        for band in sorted({0, reading.channels - 1}):
            which = f", band {band + 1}" if reading.channels > 1 else ""
            found.append((name + which, [picture[band] for picture in pictures]))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pictures = rows(Path(folder))
    figure, axes = plt.subplots(len(pictures), 3, figsize=(5.5, 1.7 * len(pictures)), squeeze=False)
    for line, (name, row) in zip(axes, pictures, strict=True):
        for place, title, picture in zip(line, ("image", "view 1", "view 2"), row, strict=True):
            place.imshow(picture, cmap="gray", vmin=0, vmax=255)
            place.set_title(title, fontsize=7)
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(name, fontsize=6)
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "results" / "two_views.png", dpi=80)


if __name__ == "__main__":
    main()
