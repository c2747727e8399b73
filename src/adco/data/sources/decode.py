"""Decode image files to RGB, or to another number of channels."""

import io
import logging
import stat
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features
from simplejpeg import decode_jpeg  # type: ignore[import-untyped]

from adco.data.sources import large, tiff
from adco.data.sources.reading import RGB, SIXTEEN_BITS, Reading, eight_bits, with_channels
from adco.untrusted import printable

try:
    from pi_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    HEIF = False
else:
    register_heif_opener()
    HEIF = True

_BASIC = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".ico"),
)
_OPTIONAL = {  # suffixes → whether this installation reads them, and what to install if not
    (".avif",): ("avif" in features.get_supported(), "pip install -U pillow"),
    (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"): ("jpg_2000" in features.get_supported(), "pip install -U pillow"),
    (".heic", ".heif", ".hif"): (HEIF, "pip install 'adco[heif]'"),
}
SUFFIXES = (*_BASIC, *(suffix for suffixes, (supported, _) in _OPTIONAL.items() if supported for suffix in suffixes))
TO_INSTALL = {suffix: how for suffixes, (supported, how) in _OPTIONAL.items() if not supported for suffix in suffixes}

# Suffixes of image formats that are never read: vector graphics, layered files, HDR images and raw photographs.
_UNSUPPORTED = (
    *(".svg", ".svgz", ".eps", ".ai", ".psd", ".psb", ".xcf", ".kra", ".jxl", ".exr", ".hdr", ".pfm", ".dds"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
OF_IMAGES = frozenset((*TO_INSTALL, *_UNSUPPORTED))  # suffixes of all image formats that are not read

# Ignore Pillow's warnings (very many pixels, damaged EXIF): the image is read anyway, or an error is raised. The filter
# applies to the whole process, because files are decoded in threads and `warnings.catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow also logs that a TIFF has more bands than it reads; the error says it.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

# EXIF tag Orientation → the operation that turns the image upright (EXIF 2.3, 4.6.4 A). Orientation 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width


def read(file: Path | bytes, reading: Reading = RGB) -> NDArray[np.uint8]:
    """Return the image in a file, given by its path or content: [H, W, C], upright.

    For one channel, the image is converted to grey; for three, to RGB, as `read_rgb` does. Grey of more than 8 bits is
    scaled by the white level. Otherwise the file must have as many channels as are asked for. They may be the bands or
    the pages of a TIFF, which needs tifffile.

    Raises:
        Exception: any error that Pillow or tifffile raises on a damaged file; `reason` describes it in a few words.
    """
    if reading == RGB:
        return read_rgb(file)
    if reading.channels not in (1, 3) and tiff.is_tiff(_start(file)):
        values = tiff.read_bands(file)
    else:
        with _opened(file) as image, large.alone(image):
            values = _values(image, converted=reading.channels in (1, 3))
    return np.ascontiguousarray(with_channels(eight_bits(values, reading.white_level), reading.channels))


def read_rgb(file: Path | bytes) -> NDArray[np.uint8]:
    """Return the image in a file (the first frame if there are several), upright and in RGB: [H, W, 3].

    The file is given by its path or by its content.

    Transparent images are blended over white. 16-bit grey is divided by 257, so that 65 535 becomes 255. Grey without
    a fixed range (floats, integers beyond 16 bits) is scaled so that its minimum becomes 0 and its maximum 255.

    A TIFF of several grey pages of one size is refused: they may be the channels of one image.

    Raises:
        Exception: any error that Pillow raises on a damaged file; `reason` describes it in a few words.
    """
    with _opened(file) as image, large.alone(image):
        pixels = _pixels(image, file)
        turn = _UPRIGHT.get(_orientation(image))
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def rgb_of(image: Image.Image) -> NDArray[np.uint8]:
    """Return an opened image as `read_rgb` returns that of a file: upright and in RGB, [H, W, 3]."""
    image.load()
    pixels = np.array(_to_rgb(image))
    turn = _UPRIGHT.get(_orientation(image))
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def header_size(file: Path | bytes) -> tuple[int, int]:
    """Return the height and width in pixels that `read_rgb` would return, from the header: no pixel is decoded.

    Raises:
        Exception: any error that Pillow raises on a damaged header.
    """
    with _opened(file) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width in pixels that `read_rgb` would return.

    The whole file is decoded, so a truncated file raises an error.

    Raises:
        Exception: any error that Pillow raises on a damaged file.
    """
    with _opened(path) as image, large.alone(image):
        size = image.size
        drafted = image.draft(None, (1, 1))  # decodes a JPEG at 1/8 of its size, which is about twice as fast
        image.load()
        _to_rgb(image)
        width, height = size if drafted else image.size  # Pillow turns a TIFF upright when it loads it
        return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def reason(error: Exception) -> str:
    """Return why a file could not be read, in a few words on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return large.of_pillow(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return printable(str(error)) or type(error).__name__


def _opened(file: Path | bytes) -> Image.Image:
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would block for ever
        raise OSError("not a regular file")
    try:
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except UnidentifiedImageError as error:
        if tiff.is_tiff(_start(file)):
            raise ValueError(tiff.why_not(file)) from error
        raise
    if (pages := tiff.stacked_pages(image)) > 1:
        image.close()
        raise ValueError(f"a TIFF of {pages} grey pages of one size: give --channels {pages} if they are channels")
    try:
        large.check(image, len(file) if isinstance(file, bytes) else file.stat().st_size)
    except ValueError:
        image.close()
        raise
    return image


def _start(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file[:4]
    with file.open("rb") as opened:
        return opened.read(4)


def _values(image: Image.Image, *, converted: bool) -> NDArray[Any]:
    """Return the values of an opened image, [H, W, C], upright.

    Args:
        converted: to grey or RGB; otherwise, the channels are those of the file.
    """
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    is_grey = image.mode in ("L", "F") or image.mode.startswith("I")
    if not is_grey and (converted or image.mode in ("1", "P")):
        image = _to_rgb(image)
    values = np.array(image)
    return values[..., None] if values.ndim == 2 else values


def _pixels(image: Image.Image, file: Path | bytes) -> NDArray[np.uint8]:
    if image.format == "JPEG" and image.mode == "RGB":
        with suppress(ValueError):  # damaged file: Pillow may still be able to read it
            content = file if isinstance(file, bytes) else file.read_bytes()
            return decode_jpeg(content)  # type: ignore[no-any-return]  # same pixels as Pillow, half the time
    image.load()
    return np.array(_to_rgb(image))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none.

    A TIFF must be loaded first: Pillow turns it upright when it loads it, and then removes the tag.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an image with damaged EXIF is still usable
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(eight_bits(np.asarray(image), SIXTEEN_BITS)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
