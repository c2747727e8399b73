"""Data sets of Hugging Face's `datasets`."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adco.data.sources import hub
from adco.data.sources.objects import source_of
from adco.data.sources.open import open_source, open_splits

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs, one of them stored sideways, in class folders."""
    exif = Image.Exif()
    exif[0x0112] = 6
    random = np.random.default_rng(0)
    for i in range(6):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(random.integers(0, 256, (20 + i, 30, 3), np.uint8))
        image.save(path, exif=exif) if i == 4 else image.save(path)
    return tmp_path / "photos"


def dataset_of(folder: Path, *, inside: bool = True, **more: Any) -> Any:
    """The images of a folder in its order, in the data set itself or as the paths of files."""
    paths = sorted(folder.rglob("*.jpg"))
    images = [{"bytes": path.read_bytes(), "path": None} if inside else str(path) for path in paths]
    labels = ["ab".index(path.parent.name) for path in paths]
    features = datasets.Features({"label": datasets.ClassLabel(names=["a", "b"]), "img": datasets.Image()})
    return datasets.Dataset.from_dict({"label": labels, "img": images, **more}, features=features)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("changed", [lambda d: d, lambda d: d.with_format("numpy"), lambda d: d.with_format("torch")])
def test_images_are_those_of_the_folder(
    folder: Path, tmp_path: Path, inside: bool, changed: Callable[[Any], Any]
) -> None:
    dataset = dataset_of(folder, inside=inside)
    dataset.save_to_disk(tmp_path / "saved")
    expected = open_source(folder)
    for source in (open_source(f"hf:{tmp_path / 'saved'}"), source_of(changed(dataset))):
        assert source.classes == expected.classes
        np.testing.assert_array_equal(source.labels, expected.labels)
        assert (source.shorter_side, source.smallest_side) == (expected.shorter_side, expected.smallest_side)
        copied = pickle.loads(pickle.dumps(source))
        for index in (4, 0, 2):
            for one in (source, copied):
                np.testing.assert_array_equal(list(one.load([index])), list(expected.load([index])))


def test_a_permuted_data_set_keeps_its_order(folder: Path) -> None:
    dataset = dataset_of(folder).select([5, 1, 3])
    source, expected = hub.of_dataset(dataset, "mine"), open_source(folder).subset([5, 1, 3])
    for one, other in zip(source.load(range(3)), expected.load(range(3)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert source.subset([2, 0]).labels.tolist() == [1, 1]  # type: ignore[union-attr]


def test_splits(folder: Path, tmp_path: Path) -> None:
    whole = dataset_of(folder)
    parts = {"train": whole.select(range(4)), "validation": whole.select([4, 5]), "extra": whole.select([0, 1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = f"hf:{tmp_path / 'saved'}"
    train, test = open_splits(data)
    assert (len(train), len(test)) == (4, 2)
    assert len(open_source(f"{data}:extra")) == 2
    train, test = open_splits(f"{data}:train")  # a part of it is held out
    assert (len(train), len(test)) == (3, 1)
    with pytest.raises(ValueError, match="has no split rest: it has train, validation, extra"):
        open_source(f"{data}:rest")
    del parts["train"]
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "others")
    with pytest.raises(ValueError, match=r"has no split train: give one of validation, extra, as in hf:.*:NAME"):
        open_source(f"hf:{tmp_path / 'others'}")


def test_rows_without_a_label_or_an_image(folder: Path) -> None:
    paths = [{"bytes": path.read_bytes(), "path": None} for path in sorted(folder.rglob("*.jpg"))[:2]]
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]), "depth": datasets.Image()}
    )
    columns = {"img": [*paths, None], "label": [1, None, -1], "depth": [*paths, None]}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    source = hub.of_dataset(dataset, "mine")
    assert source.labels is not None
    assert source.labels.tolist() == [1, -1, -1]
    assert source.description == (
        "mine: 3 images, 2 classes (2 images without one); the images of column img; not used: depth"
    )
    with pytest.raises(ValueError, match="row 2 of mine cannot be read: there is no image"):
        list(source.load([2]))


def test_what_is_wrong_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "size": [1, 2]})
    table.save_to_disk(tmp_path / "table")
    for data, message in [
        (
            "nobody/nothing",
            "cannot be loaded: nobody/nothing is not a data set on this machine or the Hugging Face hub",
        ),
        (f"{tmp_path}/empty", "is not a data set on this machine "),
        (f"{tmp_path}/table", "has no column of images: its columns are text, size"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            open_source(f"hf:{data}")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="python:Dataset has no images"):
        source_of(dataset_of(folder).select([]))
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package datasets: pip install 'adco\[hf\]'"):
        open_source("hf:nobody/nothing")
