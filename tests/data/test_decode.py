"""Pixels of one file in every mode and format, against what was written."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from simplejpeg import decode_jpeg  # type: ignore[import-untyped]

from adco.data.sources.decode import read_rgb, read_size, reason

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)  # [H, W, 3]


def pixels(path: Path) -> np.ndarray:
    image = read_rgb(path)
    assert image.dtype == np.uint8
    assert (*read_size(path), 3) == image.shape
    return image


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp"])
def test_lossless_formats_give_back_the_colours(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(COLOURS).save(tmp_path / f"a.{suffix}", lossless=True)
    np.testing.assert_array_equal(pixels(tmp_path / f"a.{suffix}"), COLOURS)


def test_jpeg_and_its_cmyk_and_grey_kinds(tmp_path: Path) -> None:
    for mode, colour in (("RGB", (200, 100, 50)), ("L", 90), ("CMYK", (0, 255, 255, 0))):
        Image.new(mode, (16, 8), colour).save(tmp_path / f"{mode}.jpg", quality=95)
    np.testing.assert_allclose(pixels(tmp_path / "RGB.jpg")[4, 8], (200, 100, 50), atol=3)
    np.testing.assert_allclose(pixels(tmp_path / "L.jpg")[4, 8], (90, 90, 90), atol=3)
    np.testing.assert_allclose(pixels(tmp_path / "CMYK.jpg")[4, 8], (255, 0, 0), atol=3)  # no cyan, all else: red


def test_palette_and_one_bit(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(pixels(tmp_path / "p.png"), [[[10, 20, 30], [40, 50, 60]]])
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "one.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "one.tif"), [[[0] * 3, [255] * 3]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    alpha = np.array([[0, 51, 255]], np.uint8)  # a fifth: 0.8 · 255 + 0.2 · 100 = 224
    grey = np.full_like(alpha, 100)
    Image.fromarray(np.stack([grey] * (len(mode) - 1) + [alpha], axis=-1), mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png")[0, :, 0], [255, 224, 100])


def test_transparent_palette_and_key_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "index.png", transparency=0)
    image.save(tmp_path / "bytes.png", transparency=b"\x00\xff")
    image.save(tmp_path / "a.gif", transparency=0)
    for name in ("index.png", "bytes.png", "a.gif"):
        np.testing.assert_array_equal(pixels(tmp_path / name), [[[255] * 3, [40, 50, 60]]], err_msg=name)
    Image.fromarray(COLOURS).save(tmp_path / "key.png", transparency=tuple(COLOURS[0, 0].tolist()))
    np.testing.assert_array_equal(pixels(tmp_path / "key.png")[0, :2], [[255] * 3, COLOURS[0, 1]])


def test_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime")]
    for name in ("a.gif", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(pixels(tmp_path / name), np.broadcast_to((255, 0, 0), (2, 3, 3)), err_msg=name)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(np.array([[0, 257, 25_700, 65_535]], np.uint16)).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(pixels(tmp_path / f"a.{suffix}")[0, :, 1], [0, 1, 100, 255])


def test_grey_without_a_range_is_stretched(tmp_path: Path) -> None:
    cases = {
        "float.tif": (np.array([[-1.0, 0.0, 1.0, np.nan]], np.float32), [0, 128, 255, 0]),
        "flat.tif": (np.array([[0.5, 0.5]], np.float32), [0, 0]),
        "nothing.tif": (np.array([[np.nan, np.inf]], np.float32), [0, 0]),
        "wide.tif": (np.array([[0, 500_000, 1_000_000]], np.int32), [0, 128, 255]),
    }
    for name, (values, expected) in cases.items():
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(pixels(tmp_path / name)[0, :, 2], expected, err_msg=name)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    # EXIF 2.3: where the stored image's first row and first column belong.
    upright = np.kron(RNG.integers(0, 256, (4, 3, 1), dtype=np.uint8), np.ones((16, 16, 3), np.uint8))  # [64, 48, 3]
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    image.save(tmp_path / f"a.{suffix}", exif=exif, lossless=True, quality=100)
    np.testing.assert_allclose(pixels(tmp_path / f"a.{suffix}"), upright, atol=3)


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for suffix, options in (("jpg", {}), ("jpg", {"progressive": True}), ("png", {}), ("tif", {}), ("webp", {})):
        whole = io.BytesIO()
        noise.save(whole, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix), **options)
        for share in (0.01, 0.3, 0.9):
            path = tmp_path / f"cut.{suffix}"
            path.write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
            with pytest.raises(Exception) as caught:  # noqa: PT011 (of Pillow's many types)
                read_size(path)
            assert "\n" not in reason(caught.value)
            assert reason(caught.value)
            with pytest.raises(Exception):  # noqa: B017, PT011
                read_rgb(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpegs_have_pillows_pixels(tmp_path: Path, options: dict[str, int]) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8)).resize((150, 111))
    noise.save(tmp_path / "a.jpg", **options)  # type: ignore[arg-type]
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), np.asarray(image))


def test_a_damaged_jpeg_that_pillow_reads_is_read(tmp_path: Path) -> None:
    """Bytes too many before the end, of which libjpeg only warns."""
    whole = io.BytesIO()
    Image.fromarray(COLOURS).resize((32, 32)).save(whole, "jpeg")
    (tmp_path / "a.jpg").write_bytes(whole.getvalue()[:-2] + b"\0" * 9 + whole.getvalue()[-2:])
    with pytest.raises(ValueError, match="extraneous"):
        decode_jpeg((tmp_path / "a.jpg").read_bytes())
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), np.asarray(image))


def test_reasons(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    for name, expected in (("text.png", "not an image"), ("gone.png", "no such file or directory")):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            read_rgb(tmp_path / name)
        assert reason(caught.value) == expected
    assert reason(KeyError()) == "KeyError"


def test_damaged_exif_costs_neither_the_image_nor_a_word(tmp_path: Path) -> None:
    # A directory of 200 entries, of which none is there: Pillow warns.
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 200) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    Image.fromarray(COLOURS).resize((32, 32)).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(COLOURS).resize((32, 32)).save(tmp_path / "b.jpg", exif=b"Exif\0\0rubbish")
    program = """
import sys
from pathlib import Path
from adco.data.sources.decode import read_rgb, read_size
for path in map(Path, sys.argv[1:]):
    assert read_rgb(path).shape[:2] == read_size(path) == (32, 32)
"""
    arguments = [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    done = subprocess.run([sys.executable, "-W", "error", "-c", program, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
