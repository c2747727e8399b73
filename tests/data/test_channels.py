"""Images of any number of channels: read, viewed, trained on and evaluated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

import adco
import tiny
from adco.config.load import pretrain_settings
from adco.config.resolve import resolve_for_images
from adco.data.sources import decode, tiff
from adco.data.sources.objects import source_of
from adco.data.sources.open import open_source
from adco.data.sources.protocol import read_as
from adco.data.sources.reading import Reading
from adco.data.views import View, draw, render, views_of
from adco.data.views import test_view as centre_view
from adco.runs.directory import RunDirectory

RANDOM = np.random.default_rng(0)


# Reading


def test_colours_become_grey_as_pillow_converts_them(tmp_path: Path) -> None:
    colours = RANDOM.integers(0, 256, (40, 50, 3), np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"))[..., None]
    Image.fromarray(colours).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode.read(tmp_path / "a.png", Reading(1)), expected)
    np.testing.assert_array_equal(list(read_as(source_of([colours, colours]), Reading(1)).load([1])), [expected])
    array = read_as(source_of(np.stack([colours, colours])), Reading(1))
    np.testing.assert_array_equal(array.load([1]), [expected])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_twelve_bits_in_sixteen(tmp_path: Path, suffix: str) -> None:
    """White is what the user says; without it, such an image is nearly black."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.array([[0, 2048, 4095, 5000]], np.uint16)).save(path)
    assert decode.read(path, Reading(1, 4095))[..., 0].tolist() == [[0, 128, 255, 255]]
    assert decode.read(path, Reading(3, 4095))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3, [255] * 3]
    assert decode.read(path, Reading(1))[..., 0].tolist() == [[0, 8, 16, 19]]
    np.testing.assert_array_equal(decode.read(path), np.repeat(decode.read(path, Reading(1)), 3, axis=2))


def test_an_image_is_turned_upright_with_any_channels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = RANDOM.integers(0, 256, (4, 6), np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decode.read(tmp_path / "a.png", Reading(1))[..., 0], np.rot90(grey, -1))


def test_four_channels_are_those_of_the_file(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 256, (5, 6, 4), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode.read(tmp_path / "a.png", Reading(4)), values)
    with pytest.raises(ValueError, match="4 channels instead of 5: give --channels 4"):
        decode.read(tmp_path / "a.png", Reading(5))


LAYOUTS: dict[str, dict[str, Any]] = {
    "samples": {"planarconfig": "contig", "photometric": "minisblack"},
    "planes": {"planarconfig": "separate", "photometric": "minisblack"},
    "pages": {"photometric": "minisblack"},
    "big": {"planarconfig": "contig", "photometric": "minisblack", "bigtiff": True},
}


def write_tiff(path: Path, values: NDArray[Any], layout: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    path.parent.mkdir(parents=True, exist_ok=True)
    is_planar = layout in ("planes", "pages")
    tifffile.imwrite(path, np.moveaxis(values, 2, 0) if is_planar else values, **LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tiff_of_thirteen_bands(tmp_path: Path, layout: str) -> None:
    values = RANDOM.integers(0, 10_001, (9, 8, 13), np.uint16)
    write_tiff(tmp_path / "a.tif", values, layout)
    expected = np.rint(values * (255 / 10_000)).astype(np.uint8)
    for file in (tmp_path / "a.tif", (tmp_path / "a.tif").read_bytes()):
        np.testing.assert_array_equal(decode.read(file, Reading(13, 10_000)), expected)
    with pytest.raises(ValueError, match="13 channels instead of 12: give --channels 13"):
        decode.read(tmp_path / "a.tif", Reading(12))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tiff_of_thirteen_bands_is_refused_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, layout: str
) -> None:
    for i in range(2):
        write_tiff(tmp_path / f"{i}.tif", RANDOM.integers(0, 256, (9, 8, 13), np.uint8), layout)
    what = "13 grey pages of one size" if layout == "pages" else "13 bands"
    with pytest.raises(ValueError, match=rf"0\.tif \(a TIFF of {what}: give --channels 13") as error:
        open_source(tmp_path)
    assert "\n" not in str(error.value)
    assert not caplog.records  # Pillow would say it in its own words, too
    with pytest.raises(ValueError, match=f"a TIFF of {what}: give --channels 13"):
        decode.read((tmp_path / "0.tif").read_bytes())
    monkeypatch.setattr(tiff, "HAS_TIFFFILE", False)
    with pytest.raises(
        ValueError, match=r"0\.tif cannot be read: a TIFF of .*bands?, which need pip install 'adco\[tif"
    ):
        list(open_source(tmp_path, reading=Reading(13)).load([0]))


# Views


@pytest.fixture
def bands() -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, (6, 30, 40, 5), np.uint8)


def viewed(images: Any, view: View) -> NDArray[np.uint8]:
    count = np.arange(len(images))
    return views_of(images, [view], 0, np.zeros_like(count), count)[0].numpy()


def test_three_channels_are_the_reference_for_others(bands: NDArray[np.uint8]) -> None:
    """Crop, flip, brightness and blur treat each channel alike, whichever function computes them."""
    settings: dict[str, Any] = {
        "size": 16,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "grayscale_probability": 0.0,
    }
    expected = viewed(np.ascontiguousarray(bands[..., :3]), View(**settings))
    found = viewed(bands, View(**settings, channels=5))
    assert found.shape == (6, 5, 16, 16)
    assert np.abs(found[:, :3].astype(int) - expected).max() <= 1  # rounding: the sums have another order
    one = viewed(np.ascontiguousarray(bands[..., 3:4]), View(**settings, channels=1))
    np.testing.assert_array_equal(one[:, 0], found[:, 3])


def test_contrast_of_one_channel_is_torchvisions(bands: NDArray[np.uint8]) -> None:
    grey = np.ascontiguousarray(bands[..., :1])
    view = View(size=30, scale=(1.0, 1.0), channels=1)
    drawn = draw(view, 0, np.zeros(6, np.int64), np.arange(6), 0)
    drawn.factors[:, 1] = 1.4
    drawn.order[:] = [1, -1, -1, -1]
    drawn.jitter[:], drawn.sigma[:], drawn.flip[:] = True, 0, False
    changed = render(grey, [view], [drawn])[0]
    drawn.jitter[:] = False
    expected = TF.adjust_contrast(render(grey, [view], [drawn])[0], 1.4)
    assert (changed.int() - expected.int()).abs().max() <= 2  # theirs starts from rounded values and cuts off the rest


def test_saturation_hue_and_grey_are_left_out() -> None:
    count = np.arange(2000)
    drawn = draw(View(channels=13, grayscale_probability=1.0), 0, np.zeros_like(count), count, 0)
    assert set(np.unique(drawn.order)) == {-1, 0, 1}
    assert (np.sort(drawn.order, 1) == [-1, -1, 0, 1]).all()
    assert not drawn.grayscale.any()


def test_test_views_have_all_channels(bands: NDArray[np.uint8]) -> None:
    found = centre_view(bands, 16).numpy()
    expected = centre_view(np.ascontiguousarray(bands[..., 1:4]), 16).numpy()
    assert found.shape == (6, 5, 16, 16)
    np.testing.assert_array_equal(found[:, 1:4], expected)


# Settings


def chosen(images: Any, **settings: Any) -> Any:
    given = pretrain_settings(**settings, epochs=1)
    given.check()
    source = source_of(images)
    return resolve_for_images(given, read_as(source, Reading(given.channels)))


def test_mean_and_std_are_those_of_the_images(bands: NDArray[np.uint8]) -> None:
    settings = chosen(bands, channels=5)
    np.testing.assert_allclose(settings.mean, (bands / 255).mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(settings.std, (bands / 255).std((0, 1, 2)), atol=1e-4)
    assert settings.backbone_args == {"in_chans": 5}
    assert chosen(bands[..., :3]).mean == (0.485, 0.456, 0.406)
    assert chosen(bands[..., :1], channels=3).mean == (0.485, 0.456, 0.406)
    assert chosen(np.full((4, 8, 8, 2), 99, np.uint8), channels=2).std == (round(1 / 255, 4),) * 2


def test_twelve_bits_that_are_taken_for_sixteen_are_told() -> None:
    with pytest.warns(
        UserWarning, match=r"are nearly black \(at most 15 of 255\): if they have 12 bits, give --white_le"
    ):
        chosen(np.full((4, 8, 8, 1), 15, np.uint8), channels=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 4}, "images of python:ndarray have 5 channels instead of 4: give --channels 5"),
        ({"channels": 0}, "channels 0 must be at least 1"),
        ({"white_level": 70_000}, "white_level 70000 must be at least 1 and at most 65535"),
        ({"channels": 5, "mean": (0.5, 0.5)}, r"mean \[0.5, 0.5\] must have 5 values: one for each channel"),
        ({"channels": 5, "backbone_args": {"in_chans": 4}}, "backbone_args has in_chans 4, but channels is 5"),
    ],
)
def test_what_does_not_fit_is_one_line(bands: NDArray[np.uint8], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(bands, **settings)


# Runs


def put_images(root: Path, kind: str) -> dict[str, Any]:
    """48 images in two classes, and the settings to train on them."""
    for i in range(48):
        path = root / "ab"[i % 2] / f"{i:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        blob = np.add.outer(np.arange(20) * (i % 5), np.arange(24) * (1 + i % 3))  # [20, 24], at most 148
        if kind == "grey":
            Image.fromarray(blob.astype(np.uint8)).save(path.with_suffix(".png"))
        elif kind == "twelve bits":
            Image.fromarray((27 * blob).astype(np.uint16)).save(path.with_suffix(".png"))
        else:
            values = (60 * blob[..., None] + 70 * np.arange(13)).astype(np.uint16)
            write_tiff(path.with_suffix(".tif"), values, "samples")
    return {
        "grey": {"channels": 1},
        "twelve bits": {"channels": 1, "white_level": 4095},
        "thirteen bands": {"channels": 13, "white_level": 10_000},
    }[kind]


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("kind", ["grey", "twelve bits", "thirteen bands"])
def test_a_run_trains_resumes_and_is_evaluated(tmp_path: Path, kind: str) -> None:
    settings = put_images(tmp_path / "images", kind)
    common: dict[str, Any] = {**tiny.SETTINGS, "adversaries": 32, "batch_size": 16, "image_size": 16, "workers": 0}
    run = adco.pretrain(data=str(tmp_path / "images"), **common, **settings, epochs=1, out=str(tmp_path / "run"))
    adco.pretrain(resume=run, epochs=2)
    losses = [record["loss"] for record in RunDirectory(run).records() if "loss" in record]
    assert losses
    assert np.isfinite(losses).all()
    backbone, info = adco.load_backbone(run / "backbone.safetensors")
    assert len(info.mean) == settings["channels"]
    features = backbone(torch.zeros(2, settings["channels"], 16, 16))
    assert features.shape == (2, 16)
    for name in ("knn", "linear"):
        with pytest.warns(UserWarning, match="only 8 test images"):
            assert adco.evaluate(name, run, floors=True)["images"] == 8
