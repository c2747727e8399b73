"""Images that stand for those that are not on this machine, in a measurement of time."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from adco.data.sources.encoded import EncodedSource
from adco.data.sources.labels import Labels
from adco.data.sources.reading import Reading
from adco.errors import InputError

SIZE, FILES = (500, 375), 256  # ImageNet's median size in px; different images, which are repeated


@dataclass(frozen=True)
class Noise:
    """A store of JPEGs in memory."""

    files: list[bytes]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        """Return the content of a JPEG."""
        return self.files[index]

    def where(self, index: int) -> str:
        """Say what the image is."""
        return f"noise image {index}"


def noise(name: str, count: int, reading: Reading) -> EncodedSource:
    """Return images of noise.

    Args:
        name: of the images that they stand for.
        count: number of images.
        reading: how they are read.

    Raises:
        InputError: they are to be read with other channels than JPEGs have.
    """
    if reading.channels not in (1, 3):
        raise InputError(
            f"data {name} is not on this machine, and JPEGs of noise cannot take its place: they have 1 or 3 channels, "
            f"not {reading.channels}"
        )
    draw = np.random.default_rng(0)
    files = []
    for _ in range(FILES):
        # Smooth, as photographs are: noise in every pixel would take far longer to decode.
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        fine = np.asarray(coarse) + draw.normal(0, 12, (SIZE[1], SIZE[0], 3))
        file = BytesIO()
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return EncodedSource(name, Noise(files), np.arange(count) % FILES, Labels(), reading=reading)
