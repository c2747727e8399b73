"""Images of very many pixels: as many as fit into memory, judged by the header before anything is allocated.

Pillow refuses images of more than twice `Image.MAX_IMAGE_PIXELS`, by default 179 million pixels, as scans may have.
The limit here is memory: an image may take half of it while it is decoded, or as many GB as $ADCO_IMAGE_GB says.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from PIL import Image

from adco.errors import InputError
from adco.memory import gigabytes, total_memory

VARIABLE = "ADCO_IMAGE_GB"
BYTES, BYTES_OF_NUMBERS = 16, 40  # per pixel while an image is decoded, with all copies; of modes I and F
ALONE = 64_000_000  # pixels, 1 GB; of larger images, a process decodes one at a time
UNLIKELY = 20_000  # pixels per byte of a file; JPEG, PNG, GIF and BMP reach half of it at most
USUAL = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # pixels that Pillow allows

_turn = Lock()


def _forget_turn() -> None:
    """Make a new lock in a forked process: the thread that holds the old one is not there."""
    global _turn
    _turn = Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_turn)


def allowed_bytes() -> float:
    """Return the bytes that an image may take.

    Raises:
        InputError: the environment variable is not a number above 0.
    """
    given = os.environ.get(VARIABLE, "")
    try:
        size = float(given) * 1e9 if given else max(USUAL * BYTES, total_memory() / 2)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise InputError(f"{VARIABLE} {given!r} must be a number above 0: the GB of memory that an image may take")
    return size


# Pillow also checks what only it sees: the frames of a GIF, the images in an ICO.
Image.MAX_IMAGE_PIXELS = int(allowed_bytes() / BYTES / 2)


def check(image: Image.Image, size: int) -> None:
    """Check the claim of an opened image, of which no pixel was decoded yet.

    Args:
        image: the image.
        size: of its file, in bytes.

    Raises:
        ValueError: it would take more memory than allowed, or the file is too small to hold so many pixels.
    """
    pixels = image.width * image.height
    is_of_numbers = image.mode == "F" or image.mode.startswith("I")
    if pixels * (BYTES_OF_NUMBERS if is_of_numbers else BYTES) > allowed_bytes():
        raise ValueError(_too_large(pixels, BYTES_OF_NUMBERS if is_of_numbers else BYTES))
    if pixels > max(ALONE, UNLIKELY * size):
        raise ValueError(f"claims {image.width} x {image.height} px in {size:,} bytes")


def of_pillow(error: Image.DecompressionBombError) -> str:
    """Return why Pillow refuses an image, in the words used here."""
    found = re.search(r"\d+", str(error))
    return _too_large(int(found[0]), BYTES) if found else "too many pixels"


@contextmanager
def alone(image: Image.Image) -> Iterator[None]:
    """Decode in this block; large images one after the other, as threads would need the memory of each at once."""
    if image.width * image.height <= ALONE:
        yield
    else:
        with _turn:
            yield


def _too_large(pixels: int, each: int) -> str:
    return (
        f"its {pixels / 1e6:,.0f} million pixels take {gigabytes(pixels * each)} of memory, "
        f"more than the {gigabytes(allowed_bytes())} allowed: {VARIABLE} sets another limit"
    )
