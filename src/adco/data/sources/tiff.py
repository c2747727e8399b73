"""TIFF files with any number of bands, which Pillow does not read."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adco.data.sources import large
from adco.memory import gigabytes

try:
    import tifffile
except ImportError:
    HAS_TIFFFILE = False
else:
    HAS_TIFFFILE = True

_START = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # with +, BigTIFF
BYTES_AS_NUMBERS = 40  # per value, while it is converted to 8 bits
_SAMPLES_PER_PIXEL = 277  # tag (TIFF 6.0, section 8)


def is_tiff(start: bytes) -> bool:
    """True if a file that begins with these bytes is a TIFF."""
    return start[:4] in _START


def why_not(file: Path | bytes) -> str:
    """Say why a TIFF that Pillow refuses is not read as RGB."""
    bands = _bands(file)
    if bands in (0, 1, 3):
        return "a TIFF of a kind that cannot be read"
    return f"a TIFF of {bands} bands: give --channels {bands}"


def stacked_pages(image: Image.Image) -> int:
    """Return the number of pages of a TIFF if they are grey and of one size, as the bands of an image are; else 1."""
    if image.format != "TIFF" or not (image.mode in ("L", "F") or image.mode.startswith("I")):
        return 1
    pages: int = getattr(image, "n_frames", 1)
    if pages == 1:
        return 1
    size = image.size
    image.seek(1)
    is_stack = image.size == size
    image.seek(0)
    return pages if is_stack else 1


def read_bands(file: Path | bytes) -> NDArray[Any]:
    """Return the bands of a TIFF, [H, W, C] of the dtype they have: samples of a page, or pages of one size.

    Raises:
        ValueError: tifffile is not installed, or the image has other dimensions.
    """
    if not HAS_TIFFFILE:
        raise ValueError(f"a TIFF of {_bands(file)} bands, which need pip install 'adco[tiff]'")
    with tifffile.TiffFile(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        series = opened.series[0]
        if (needed := series.nbytes * BYTES_AS_NUMBERS / series.dtype.itemsize) > large.allowed_bytes():
            raise ValueError(f"its values {list(series.shape)} take {gigabytes(needed)} of memory, more than allowed")
        values: NDArray[Any] = series.asarray()
        axes: str = series.axes
    if values.ndim == 2:
        return values[..., None]
    if values.ndim != 3 or not {"Y", "X"} < set(axes):
        raise ValueError(f"a TIFF of the dimensions {list(values.shape)}")
    return np.moveaxis(values, [axes.index("Y"), axes.index("X")], [0, 1])


def _bands(file: Path | bytes) -> int:
    """Return the samples per pixel of the first page; 0 if they are not found."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    order, is_big = _START[content[:4]], b"+" in content[:4]
    offset, number, count = ("Q", "Q", "Q") if is_big else ("I", "H", "I")  # the types of BigTIFF and TIFF
    try:
        (start,) = struct.unpack_from(order + offset, content, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + number, content, start)
        for entry in range(entries):
            place = start + struct.calcsize(order + number) + (20 if is_big else 12) * entry
            tag, _, _, value = struct.unpack_from(f"{order}HH{count}H", content, place)
            if tag == _SAMPLES_PER_PIXEL:
                return int(value)
    except struct.error:
        return 0
    return 0
