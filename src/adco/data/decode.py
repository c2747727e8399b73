"""One image file to RGB."""

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
_PLUGGED = {  # suffixes -> whether they can be read here, and how they could be
    (".avif",): ("avif" in features.get_supported(), "pip install -U pillow"),
    (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"): ("jpg_2000" in features.get_supported(), "pip install -U pillow"),
    (".heic", ".heif", ".hif"): (HEIF, "pip install 'adco[heif]'"),
}
SUFFIXES = (*_BASIC, *(suffix for suffixes, (here, _) in _PLUGGED.items() if here for suffix in suffixes))
TO_INSTALL = {suffix: how for suffixes, (here, how) in _PLUGGED.items() if not here for suffix in suffixes}

# Suffixes of images that are never read: vector graphics, layered files and raw photographs.
_NEVER = (
    *(".svg", ".svgz", ".eps", ".ai", ".psd", ".psb", ".xcf", ".kra", ".jxl", ".exr", ".hdr", ".pfm", ".dds"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
OF_IMAGES = frozenset((*TO_INSTALL, *_NEVER))

# What Pillow warns of (very many pixels, damaged EXIF) is read all the same, or raises. For the whole process and
# from import on, as `warnings.catch_warnings` is not for threads, in which files are decoded here.
warnings.filterwarnings("ignore", module=r"PIL\.")

# How to turn an image upright, by the EXIF tag Orientation (EXIF 2.3, 4.6.4 A); 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The image of a file, or its first frame, upright and in RGB: [H, W, 3].

    Transparency is laid over white. 16-bit grey is divided by 257, so that 65 535 becomes 255. Grey without
    a range of its own (floats, integers beyond 16 bits) is stretched from its smallest to its largest value.

    Raises:
        Exception: whatever Pillow raises on a damaged file; `reason` puts it into words.
    """
    with Image.open(path) as image:
        pixels = _pixels(image, path)
        turn = _UPRIGHT.get(_orientation(image))
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def read_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, as `read_rgb` would give them. Every byte is decoded: a cut file raises.

    Raises:
        Exception: as `read_rgb`.
    """
    with Image.open(path) as image:
        size = image.size
        drafted = image.draft(None, (1, 1))  # a JPEG at an eighth of its size, about twice as fast
        image.load()
        _to_rgb(image)
        width, height = size if drafted else image.size  # Pillow turns a TIFF upright as it loads
        return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def reason(error: Exception) -> str:
    """Why a file could not be read, in a few words on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _pixels(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.format == "JPEG" and image.mode == "RGB":
        with suppress(ValueError):  # of damage that Pillow may live with
            return decode_jpeg(path.read_bytes())  # type: ignore[no-any-return]  # Pillow's pixels, in half its time
    image.load()
    return np.array(_to_rgb(image))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, a TIFF once loaded (Pillow turns it and drops the tag by itself)."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF is no reason to lose the photograph
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of more than 8 bits as [H, W] in 0..255. What is not finite becomes black."""
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
