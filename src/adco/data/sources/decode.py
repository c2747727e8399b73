"""Decode image files to RGB."""

import io
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features
from simplejpeg import decode_jpeg  # type: ignore[import-untyped]

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


def read_rgb(file: Path | bytes) -> NDArray[np.uint8]:
    """Return the image in a file (the first frame if there are several), upright and in RGB: [H, W, 3].

    The file is given by its path or by its content.

    Transparent images are blended over white. 16-bit grey is divided by 257, so that 65 535 becomes 255. Grey without
    a fixed range (floats, integers beyond 16 bits) is scaled so that its minimum becomes 0 and its maximum 255.

    Raises:
        Exception: any error that Pillow raises on a damaged file; `reason` describes it in a few words.
    """
    with _opened(file) as image:
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
    with Image.open(path) as image:
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
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _opened(file: Path | bytes) -> Image.Image:
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


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
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Convert grey of more than 8 bits to [H, W] in 0..255. Values that are not finite become 0."""
    grey = np.asarray(image, np.float64)
    finite = np.isfinite(grey)
    if not finite.any():
        return np.zeros(grey.shape, np.uint8)
    low, high = grey.min(initial=np.inf, where=finite), grey.max(initial=-np.inf, where=finite)
    if image.mode != "F" and low >= 0 and high <= 65_535:
        low, high = 0, 65_535
    scale = 255 / (high - low) if high > low else 0.0
    scaled: NDArray[np.float64] = (np.where(finite, grey, low) - low) * scale
    return np.rint(scaled).astype(np.uint8)
