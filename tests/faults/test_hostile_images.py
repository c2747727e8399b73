"""Damaged and hostile images: named with a reason, without a crash, and without memory for what a header claims."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adco
import tiny
from adco.data.damage import DamagedImage
from adco.data.sources import decode, large
from adco.data.sources.open import open_source
from adco.data.sources.reading import Reading
from adco.errors import InputError
from faults.images import FORMATS, SIDE, claiming, encoded, try_damaged
from faults.rows import FULL, measured, scaled


@pytest.mark.fault(f"images damaged at random, in {', '.join(FORMATS.values())}")
@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged files
def test_images_damaged_at_random(tmp_path: Path, report: Callable[..., None]) -> None:
    number = scaled(90, 1000)
    if not FULL:
        reasons = try_damaged(str(tmp_path), number, 0)
    else:
        reasons, megabytes = measured(try_damaged, str(tmp_path), number, 0)
        says = "adco: warning: 1 of 2000 files in photos cannot be read; left out: 1.png (not an image)"
        report(tried=number, says=says, megabytes=megabytes)
    assert reasons.total() == number
    assert 0 < reasons[""] < number / 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "JPEG"])
def test_a_size_that_is_claimed_takes_no_memory(kind: str) -> None:
    """Neither 4 295 million pixels, the most of a GIF or JPEG, nor 2^62."""
    content = claiming(kind, encoded(kind, np.random.default_rng(3)), 2**31 - 1)
    with pytest.raises((ValueError, Image.DecompressionBombError)) as raised:
        decode.read(content)
    assert re.search(r"million pixels take .* GB of memory, more than|^claims \d+ x \d+", decode.reason(raised.value))


@pytest.mark.fault("an image that takes more memory than allowed")
def test_the_limit_is_memory(monkeypatch: pytest.MonkeyPatch, report: Callable[..., None]) -> None:
    """The same images are read or refused, depending on how much memory there is or is allowed."""
    content = encoded("PNG", np.random.default_rng(0))
    needed = SIDE**2 * large.BYTES / 1e9
    monkeypatch.setenv(large.VARIABLE, f"{needed * 1.01}")
    assert decode.read(content).shape == (SIDE, SIDE, 3)
    monkeypatch.setenv(large.VARIABLE, f"{needed * 0.99}")
    with pytest.raises(
        ValueError, match=r"million pixels take 0.0 GB .* allowed: ADCO_IMAGE_GB sets another limit$"
    ) as raised:
        decode.read(content)
    report(says=f"adco: warning: 1 of 2000 files in photos cannot be read; left out: 1.png ({raised.value})")
    monkeypatch.delenv(large.VARIABLE)
    monkeypatch.setattr(large, "total_memory", lambda: 2 * large.BYTES * 400_000_000)
    assert large.allowed_bytes() == large.BYTES * 400_000_000
    monkeypatch.setattr(large, "total_memory", lambda: 0)
    assert large.allowed_bytes() == large.BYTES * 2 * 89_478_485  # never less than Pillow's own limit


@pytest.mark.parametrize("given", ["x", "-1", "0", "nan", "inf"])
def test_an_impossible_limit_is_named(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(large.VARIABLE, given)
    with pytest.raises(InputError, match=f"^ADCO_IMAGE_GB '{given}' must be a number above 0"):
        large.allowed_bytes()


def test_a_small_file_cannot_hold_very_many_pixels() -> None:
    image = Image.new("1", (1, 1))
    image._size = (20_000, 20_000)
    large.check(image, 50_000)
    with pytest.raises(ValueError, match=r"^claims 20000 x 20000 px in 100 bytes$"):
        large.check(image, 100)


@pytest.mark.fault("a scan of 20 000 x 20 000 px")
@pytest.mark.skipif(not FULL, reason="takes 5 GB")
def test_an_image_of_400_million_pixels_is_read(tmp_path: Path, report: Callable[..., None]) -> None:
    path = tmp_path / "scan.png"
    Image.new("RGB", (20_000, 20_000), "teal").save(path, compress_level=1)
    shape, megabytes = measured(_shape, str(path))
    report(megabytes=megabytes)
    assert shape == (20_000, 20_000, 3)


def _shape(path: str) -> tuple[int, ...]:
    return decode.read(Path(path)).shape


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """Opening it would block for ever, also outside the sample that is decoded when a folder is opened."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match=r"^not a regular file$"):
        decode.read(tmp_path / "a.png")


def test_a_tiff_that_claims_very_many_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 8, 8), np.uint16))
    assert decode.read(tmp_path / "a.tif", Reading(5)).shape == (8, 8, 5)
    monkeypatch.setenv(large.VARIABLE, "1e-5")  # 10 kB
    with pytest.raises(ValueError, match=r"^its values \[5, 8, 8\] take 0.0 GB of memory, more than allowed$"):
        decode.read(tmp_path / "a.tif", Reading(5))


@pytest.mark.fault("damaged images among those of an evaluation")
@pytest.mark.filterwarnings("ignore:only 7 test images")
def test_evaluate_has_the_limit_that_its_error_names(tmp_path: Path, report: Callable[..., None]) -> None:
    for split in ("train", "val"):
        for kind in ("a", "b"):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(4):
                pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / kind / f"{number}.png")
    (tmp_path / "val" / "a" / "0.png").write_text("damaged")
    run = tiny.untrained_run(tmp_path / "run", data=str(tmp_path)).path
    with pytest.raises(
        InputError, match=r"^1 of 8 files in .*val cannot be read.*, or raise --max_unreadable$"
    ) as raised:
        adco.evaluate("knn", run, data=str(tmp_path), device="cpu")
    report(says=raised.value)
    with pytest.warns(UserWarning, match=r"^1 of 8 files in .*val cannot be read; left out: a/0.png"):
        source = open_source(tmp_path, "test", max_unreadable=0.2)
    assert len(source) == 7
    with pytest.warns(UserWarning, match=r"^1 of 8 files"), pytest.warns(UserWarning, match="only 7 test images"):
        assert adco.evaluate("knn", run, data=str(tmp_path), max_unreadable=0.2, device="cpu")["images"] == 7


def test_the_error_of_a_damaged_image_is_one_line() -> None:
    assert "\n" not in str(DamagedImage(Path("a.png"), decode.reason(ValueError("two\nlines \x1b[2J"))))
    assert "\x1b" not in decode.reason(ValueError("\x1b[2J"))
