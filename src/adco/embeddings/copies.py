"""Altered copies of images, as duplicates arise: cropped, mirrored, saved again, edited, resized.

Their parameters are functions of (seed, kind, image), so that the same images always give the same copies.

Shapes: H and W height and width of an image in pixels, C its channels.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from adco.data.images import Pixels
from adco.data.sources.labels import Labels
from adco.data.sources.objects import ItemSource
from adco.data.sources.protocol import Source
from adco.data.sources.reading import Reading

SHORTEST_SIDE = 0.82  # of a crop, as a share of the image's
LOWEST_QUALITY, HIGHEST_QUALITY = 30, 90  # of a JPEG
STRONGEST_EDIT = 0.25  # factors of brightness, contrast and saturation are 1 ± 0.25
SMALLEST_SIZE = 0.5  # of a resized copy, as a share of the image's

Change = Callable[[Image.Image, NDArray[np.float64]], Image.Image]  # an image and 4 numbers in [0, 1) → its copy


def copies_of(source: Source, kind: str, seed: int) -> Source:
    """Return a source of altered copies of the images of a source, made when they are read.

    Args:
        source: the images.
        kind: one of `KINDS`.
        seed: of the parameters.
    """
    channels = next(iter(source.load([0]))).shape[2]
    items = _Copies(source, kind, seed)
    return ItemSource(f"copies ({kind})", items, np.arange(len(source)), Labels(), Reading(channels))


def altered(pixels: Pixels, kind: str, numbers: NDArray[np.float64]) -> Pixels:
    """Return an altered copy of an image [H, W, C], whose height and width may differ.

    Args:
        pixels: the image.
        kind: one of `KINDS`.
        numbers: [4], in [0, 1); they choose the strength of the change.
    """
    if pixels.shape[2] == 3:
        return np.array(KINDS[kind](Image.fromarray(pixels), numbers))
    planes = [KINDS[kind](Image.fromarray(plane), numbers) for plane in np.moveaxis(pixels, 2, 0)]
    return np.stack([np.asarray(plane) for plane in planes], 2)


@dataclass(frozen=True)
class _Copies(Sequence[Pixels]):
    source: Source
    kind: str
    seed: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pixels:  # type: ignore[override]  # no slices
        (pixels,) = self.source.load([index])
        numbers = np.random.default_rng((self.seed, list(KINDS).index(self.kind), index)).random(4)
        return altered(pixels, self.kind, numbers)


def _crop(image: Image.Image, numbers: NDArray[np.float64]) -> Image.Image:
    across, down, left, top = numbers
    width, height = ((SHORTEST_SIDE + (1 - SHORTEST_SIDE) * share) for share in (across, down))
    x, y = (1 - width) * left, (1 - height) * top
    box = np.array([x, y, x + width, y + height]) * (*image.size, *image.size)
    x0, y0, x1, y1 = np.round(box).astype(int).tolist()
    return image.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))


def _flip(image: Image.Image, numbers: NDArray[np.float64]) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _jpeg(image: Image.Image, numbers: NDArray[np.float64]) -> Image.Image:
    content = io.BytesIO()
    quality = LOWEST_QUALITY + (HIGHEST_QUALITY - LOWEST_QUALITY) * numbers[0]
    image.save(content, "JPEG", quality=round(quality))
    return Image.open(content).convert(image.mode)


def _colour(image: Image.Image, numbers: NDArray[np.float64]) -> Image.Image:
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, number in zip(enhancers, numbers, strict=False):
        image = enhancer(image).enhance(1 + STRONGEST_EDIT * (2 * number - 1))
    return image


def _resize(image: Image.Image, numbers: NDArray[np.float64]) -> Image.Image:
    share = SMALLEST_SIZE + (1 - SMALLEST_SIZE) * numbers[0]
    width, height = (max(1, round(side * share)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _several(image: Image.Image, numbers: NDArray[np.float64]) -> Image.Image:
    for change, shift in ((_crop, 0), (_flip, 0), (_colour, 1), (_jpeg, 2)):
        image = change(image, np.roll(numbers, shift))
    return image


KINDS: dict[str, Change] = {
    "crop": _crop,
    "flip": _flip,
    "JPEG": _jpeg,
    "colour": _colour,
    "resize": _resize,
    "several": _several,
}
