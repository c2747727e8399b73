"""Images given from Python."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

import adco
import tiny
from adco.data.sources.arrays import ArraySource
from adco.data.sources.objects import source_of
from adco.data.sources.open import open_source
from adco.data.sources.protocol import read_as
from adco.data.sources.reading import Reading
from adco.errors import InputError
from adco.runs.directory import RunDirectory

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 8, 10, 3), np.uint8)


class Pairs(Dataset[Any]):
    """A torch data set of what it is given, with a label each."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index], index % 2


KINDS: dict[str, Any] = {
    "array": IMAGES,
    "list of PIL images": [Image.fromarray(image) for image in IMAGES],
    "list of arrays": list(IMAGES),
    "torch data set of PIL images": Pairs([Image.fromarray(image) for image in IMAGES]),
    "torch data set of arrays": Pairs(IMAGES),
    "tensors": TensorDataset(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)),
    "source": ArraySource("mine", IMAGES, None, ()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_give_the_images(kind: str) -> None:
    source = pickle.loads(pickle.dumps(source_of(KINDS[kind])))
    assert (len(source), source.labels, source.shorter_side, source.smallest_side) == (5, None, 8, 8)
    for part, indices in ((source, [4, 0]), (source.subset([1, 4, 0]), [1, 2])):
        np.testing.assert_array_equal(list(part.load(indices)), IMAGES[[4, 0]])
    assert "5 images" in source.description


def test_a_data_set_of_torchvision_has_labels(tmp_path: Path) -> None:
    for i, image in enumerate(IMAGES):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "ab"[i % 2] / f"{i}.jpg")
    source, expected = source_of(ImageFolder(tmp_path)), open_source(tmp_path)
    assert source.classes == expected.classes
    np.testing.assert_array_equal(source.labels, expected.labels)
    np.testing.assert_array_equal(list(source.load(range(5))), list(expected.load(range(5))))


def test_an_opened_image_is_turned_upright_as_a_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(2):
        Image.fromarray(IMAGES[i]).save(tmp_path / f"{i}.jpg", exif=exif)
    found = source_of([Image.open(tmp_path / f"{i}.jpg") for i in range(2)]).load([0, 1])
    np.testing.assert_array_equal(list(found), list(open_source(tmp_path).load([0, 1])))


def test_grey_and_transparent_images_become_rgb() -> None:
    images = [Image.new("L", (4, 4), 7), Image.new("RGBA", (4, 4), (0, 0, 0, 0)), Image.new("1", (4, 4), 1)]
    found = [image[0, 0].tolist() for image in source_of(images).load(range(3))]
    assert found == [[7] * 3, [255] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES.astype(np.float32), r"images of python:ndarray are float32 \[5, 8, 10, 3\], not uint8"),
        ([], "data has no images"),
        (7, "data is a int: give a path, a name, "),
        ({"a": 1, "b": 2}, "data is a dict: give a path"),
        (iter(IMAGES), "data is a .*iterator: give a path"),
    ],
)
def test_other_things_are_refused(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_of(images)


@pytest.mark.parametrize(("channels", "wanted"), [(1, 3), (3, 3), (1, 1), (3, 1), (13, 13)])
def test_an_array_with_channels_first_is_told_how_to_turn(channels: int, wanted: int) -> None:
    images = RANDOM.integers(0, 256, (5, channels, 8, 10), np.uint8)
    message = rf"^images of python:ndarray have the shape \[5, {channels}, 8, 10\], which looks channels-first: give "
    with pytest.raises(InputError, match=message) as error:
        read_as(source_of(images), Reading(wanted))
    line = str(error.value).split("give ")[1]
    assert line == "images.transpose(0, 2, 3, 1)"
    turned = read_as(source_of(eval(line, {"images": images})), Reading(wanted))
    assert next(iter(turned.load([0]))).shape == (8, 10, wanted)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:, :0], r"have the shape \[5, 0, 10, 3\]: there are no pixels$"),
        (IMAGES[:, :, :0], r"have the shape \[5, 8, 0, 3\]: there are no pixels$"),
        (IMAGES[..., :1], "have 1 channel instead of 2: give --channels 1$"),
    ],
)
def test_arrays_without_pixels_or_with_other_channels_are_refused(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^images of python:ndarray {message}"):
        read_as(source_of(images), Reading(2))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.zeros(3, 4, 4), r"is Tensor float32 \[3, 4, 4\]: it must be a PIL image"),
        (np.zeros((4, 4, 4), np.uint8), "has 4 channels instead of 3: give --channels 4"),
        (np.zeros((3, 4, 6), np.uint8), r"has the shape \[3, 4, 6\], which looks .*: give images.transpose\(1, 2, 0\)"),
        (np.zeros((0, 4, 3), np.uint8), r"has the shape \[0, 4, 3\]: there are no pixels$"),
        (Image.new("RGB", (0, 4)), r"has the shape \[4, 0, 3\]: there are no pixels$"),
        (np.zeros((4, 4), np.uint8), r"is ndarray uint8 \[4, 4\]: it must be"),
        (("a.png", 1), "is a tuple that begins with a str: it must be"),
        ((), "is a tuple: it must be"),
    ],
)
def test_items_that_are_no_images_are_named(item: Any, message: str) -> None:
    source = source_of([IMAGES[0], item])
    with pytest.raises(ValueError, match=f"item 1 of python:list {message}"):
        list(source.load([1]))
    with pytest.raises(ValueError, match=f"item 1 of python:list {message}"):
        _ = source.shorter_side


SETTINGS: dict[str, Any] = {**tiny.SETTINGS, "adversaries": 32, "batch_size": 16, "epochs": 1, "image_size": 8}


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_a_run_on_an_array_resumes_with_the_array(tmp_path: Path) -> None:
    images, _, _ = tiny.few("train")
    expected = adco.pretrain(data="few", **SETTINGS, knn_images=0, out=str(tmp_path / "named"))
    run = adco.pretrain(data=images, **SETTINGS, out=str(tmp_path / "run"))
    assert RunDirectory(run).read_config()["data"] == "python:ndarray"
    lengths: list[dict[str, Any]] = [{}, {"epochs": 2}]
    for given in lengths:
        if given:
            with pytest.raises(
                ValueError, match=r"^data 'python:ndarray' was given .* again, as in adco.pretrain\(resume=RUN, data="
            ):
                adco.pretrain(resume=run, **given)
            adco.pretrain(resume=expected, **given)
            adco.pretrain(resume=run, data=images, **given)
        name = "backbone.safetensors"
        assert (run / name).read_bytes() == (expected / name).read_bytes()
    with pytest.raises(ValueError, match=r"the images of .*named are read from few: leave out data"):
        adco.pretrain(resume=expected, data=images, epochs=3)
    with pytest.raises(ValueError, match="python:ndarray has 99 images, but the run had 100"):
        adco.pretrain(resume=run, data=images[:99], epochs=3)
    with pytest.raises(ValueError, match="were given from Python: give them again, not few"):
        adco.pretrain(resume=run, data="few", epochs=3)
    with pytest.raises(ValueError, match="class_level 1 is for folders: leave it out"):
        adco.pretrain(data=images, class_level=1)
