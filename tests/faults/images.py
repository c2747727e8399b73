"""Images in six formats, and what reads damaged ones."""

import io
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from adco.data.damage import DamagedImage
from adco.data.sources.folder import FolderSource
from adco.data.sources.listing import list_images
from adco.data.sources.survey import survey
from faults.damage import damaged

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "gif": "GIF"}
SIDE = 61  # px


def encoded(kind: str, draw: Generator) -> bytes:
    """Return an image file of noise and a gradient, as photographs have both."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels = (rows + columns)[..., None] + draw.integers(0, 99, (SIDE, SIDE, 3))
    file = io.BytesIO()
    more = {"compression": "tiff_lzw"} if kind == "TIFF" and draw.random() < 0.5 else {}
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **more)
    return file.getvalue()


def claiming(kind: str, content: bytes, side: int) -> bytes:
    """Return an image file whose header claims another width and height; WebP is left as it is."""
    form, most = {"PNG": (">II", 2**31 - 1), "BMP": ("<ii", 2**31 - 1), "TIFF": ("<I", 2**32 - 1)}.get(
        kind, ("<HH" if kind == "GIF" else ">HH", 2**16 - 1)
    )
    side = min(side, most)
    if kind == "TIFF":  # tags 256 and 257, each with one value of 16 or 32 bits
        for tag in (256, 257):
            place = content.index(struct.pack("<H", tag), 8)
            content = content[:place] + struct.pack("<HHII", tag, 4, 1, side) + content[place + 12 :]
        return content
    start = {"PNG": 16, "BMP": 18, "GIF": 6, "JPEG": content.find(b"\xff\xc0") + 5}.get(kind)
    if start is None:
        return content
    new = content[:start] + struct.pack(form, side, side) + content[start + struct.calcsize(form) :]
    checksum = struct.pack(">I", zlib.crc32(new[12:29]))
    return new[:29] + checksum + new[33:] if kind == "PNG" else new


def write_damaged(folder: Path, number: int, seed: int) -> None:
    """Write so many damaged images in turns of all formats."""
    for place in range(number):
        draw, suffix = np.random.default_rng((seed, place)), list(FORMATS)[place % len(FORMATS)]
        content = encoded(FORMATS[suffix], draw)
        absurd, side = draw.random() < 0.2, int(10 ** draw.uniform(2, 9))
        content = claiming(FORMATS[suffix], content, side) if absurd else damaged(content, draw)
        (folder / f"{place:05}.{suffix}").write_bytes(content)


def try_damaged(folder: str, number: int, seed: int) -> Counter[str]:
    """Survey and read damaged images; return how often each reason was given, "" for images that can be read.

    Raises:
        Exception: an error that is not named with its file, or a reason that is not one short printable line.
    """
    path = Path(folder)
    write_damaged(path, number, seed)
    listing = list_images(path)
    found = list(survey(path, listing.images))
    source = FolderSource(str(path), listing.images, SIDE, SIDE, None, (), ())
    reasons: Counter[str] = Counter(size for size in found if isinstance(size, str))
    for index, size in enumerate(found):
        try:
            (pixels,) = source.load([index])
        except DamagedImage as error:
            reason = error.file.reason
            assert reason.isprintable(), reason
            assert 0 < len(reason) < 300, reason
            continue
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        if not isinstance(size, str):
            assert pixels.shape == (*size, 3), listing.images[index]
            reasons[""] += 1
    return reasons
