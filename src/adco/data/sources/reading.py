"""How images are to be read: with how many channels, and which value is white."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adco.words import counted

SIXTEEN_BITS = 65_535  # the largest value of 16 bits


@dataclass(frozen=True)
class Reading:
    """How images are to be read.

    Args:
        channels: 3 for RGB and 1 for grey, to which other images are converted. Images must have any other number.
        white_level: value that becomes 255 in images with more than 8 bits; larger values become 255, too.
    """

    channels: int = 3
    white_level: int = SIXTEEN_BITS


RGB = Reading()


def with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Convert images [..., H, W, c] to [..., H, W, C]: from grey to RGB, or from RGB to grey (ITU-R BT.601).

    Raises:
        ValueError: another conversion would be needed; says how many channels there are.
    """
    found = pixels.shape[-1]
    if found == channels:
        return pixels
    if (found, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=-1)
    if (found, channels) == (3, 1):
        grey = pixels @ np.array([19595, 38470, 7471], np.uint32) + np.uint32(0x8000)  # as Pillow rounds
        return (grey >> np.uint32(16)).astype(np.uint8)[..., None]
    raise ValueError(f"{counted(found, 'channel')} instead of {channels}: give --channels {found}")


def eight_bits(values: NDArray[Any], white_level: int) -> NDArray[np.uint8]:
    """Convert the values of an image to 0..255.

    Integers of more than 8 bits are scaled so that `white_level` becomes 255. Floats and integers beyond 16 bits have
    no fixed range: they are scaled so that the smallest value becomes 0 and the largest 255. Values that are not finite
    become 0.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    exact = values.astype(np.float64)
    finite = np.isfinite(exact)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = exact.min(initial=np.inf, where=finite), exact.max(initial=-np.inf, where=finite)
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= SIXTEEN_BITS:
        low, high = 0, white_level
    scale = 255 / (high - low) if high > low else 0.0
    scaled: NDArray[np.float64] = (np.where(finite, exact, low) - low) * scale
    return np.rint(np.minimum(scaled, 255)).astype(np.uint8)
