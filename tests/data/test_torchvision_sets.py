"""The sets that torchvision downloads, made small in the layout in which it unpacks them."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets  # type: ignore[import-untyped]

from adco.data.sources.address import is_here
from adco.data.sources.open import open_source, open_splits

RANDOM = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory. No host can be reached."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("ADCO_DATA", str(tmp_path))
    return tmp_path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir()
    stored = {name: RANDOM.integers(0, 256, (6, 3072), np.uint8) for name in ("train", "test")}
    for name, data in stored.items():
        (folder / name).write_bytes(pickle.dumps({"data": data, "fine_labels": [0, 1, 1, 0, 1, 0]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bee"]}))
    for name in ("train", "test"):
        monkeypatch.setattr(datasets.CIFAR100, f"{name}_list", [[name, md5(folder / name)]])
    monkeypatch.setitem(datasets.CIFAR100.meta, "md5", md5(folder / "meta"))
    for split, source in zip(("train", "test"), open_splits("cifar100"), strict=True):
        expected = stored[split].reshape(6, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(source.load(range(6)), expected)
        assert source.classes == ("apple", "bee")
        assert source.labels is not None
        assert source.labels.tolist() == [0, 1, 1, 0, 1, 0]


def test_stl10_pretrains_on_the_unlabelled_images_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    counts, stored = {"train": 10, "unlabeled": 7, "test": 4}, {}
    for name, count in counts.items():
        stored[name] = RANDOM.integers(0, 256, (count, 3, 96, 96), np.uint8)
        stored[name].tofile(folder / f"{name}_X.bin")
    for name in ("train", "test"):
        (np.arange(counts[name]) % 2 + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    names = {"train_list": ("train_X", "train_y", "unlabeled_X"), "test_list": ("test_X", "test_y")}
    for which, files in names.items():
        monkeypatch.setattr(datasets.STL10, which, [[f"{file}.bin", md5(folder / f"{file}.bin")] for file in files])
    source = open_source("stl10")
    assert (len(source), source.shorter_side, source.in_memory) == (17, 96, True)
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1] * 5 + [-1] * 7
    peer = datasets.STL10(root, "train+unlabeled")
    for index in (0, 9, 10, 16):
        image = next(iter(source.load([index])))
        np.testing.assert_array_equal(image, np.asarray(peer[index][0]))
        assert image.flags.c_contiguous
    train, test = open_splits("stl10")
    assert (len(train), len(test), train.classes) == (10, 4, ("airplane", "bird"))
    assert [len(part) for part in open_splits("stl10-validation")] == [8, 2]
    assert len(open_source("stl10-validation")) == 15


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, (9, 8, 3), np.uint8)).save(path)


def test_imagenette(root: Path) -> None:
    assert not is_here("imagenette")
    for split, count in (("train", 3), ("val", 2)):
        for name in ("n01440764", "n02102040"):
            for i in range(count):
                put(root / "imagenette2-320" / split / name / f"{i}.JPEG")
    assert is_here("imagenette")
    train, test = open_splits("imagenette")
    assert (len(train), len(test)) == (6, 4)
    peer = datasets.Imagenette(root, "train", "320px")
    for index, image in enumerate(train.load(range(6))):
        np.testing.assert_array_equal(image, np.asarray(peer[index][0]))


def test_eurosat_holds_out_a_fifth(root: Path) -> None:
    for name in ("Forest", "River"):
        for i in range(5):
            put(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg")
    train, test = open_splits("eurosat")
    assert (len(train), len(test), train.classes) == (8, 2, ("Forest", "River"))
    assert len(open_source("eurosat")) == 8
    pixels = {image.tobytes() for part in (train, test) for image in part.load(range(len(part)))}
    assert len(pixels) == 10


@pytest.mark.parametrize("name", ["cifar100", "stl10", "imagenette", "eurosat"])
def test_a_set_that_cannot_be_downloaded_is_one_line(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is not available here \(.*no network.*\): put .* into {root}$"):
        open_source(name)
    assert not is_here(name)
