"""Folders and named sets as sources of images."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from adco.data.sources import decode
from adco.data.sources.arrays import ArraySource
from adco.data.sources.folder import FolderSource
from adco.data.sources.open import open_source, open_splits


def put(path: Path, colour: str = "red", size: tuple[int, int] = (4, 3)) -> Path:
    """An image, width by height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def put_classes(root: Path, *, per_class: int = 5, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for name in classes:
        for i in range(per_class):
            put(root / name / f"{i}.png")


def opened(data: Path, max_unreadable: float = 0.01) -> FolderSource:
    source = open_source(data, max_unreadable=max_unreadable)
    assert isinstance(source, FolderSource)
    return source


def names(source: FolderSource, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in source.paths]


def test_flat_folder(tmp_path: Path) -> None:
    put(tmp_path / "b.PNG", "lime", (7, 5))
    put(tmp_path / "a.jpeg", "red", (20, 30))
    put(tmp_path / "c.GIF", "blue", (9, 9))
    (tmp_path / "notes.txt").write_text("not looked at")
    put(tmp_path / ".hidden.png")
    put(tmp_path / ".thumbnails" / "d.png")
    source = opened(tmp_path)
    assert names(source, tmp_path) == ["a.jpeg", "b.PNG", "c.GIF"]
    assert (source.labels, source.classes, source.unreadable) == (None, (), ())
    assert (len(source), source.shorter_side, source.smallest_side) == (3, 9, 5)
    images = list(source.load([2, 1]))
    assert [image[0, 0].tolist() for image in images] == [[0, 0, 255], [0, 255, 0]]
    part = source.subset(np.array([2, 0]))
    assert names(part, tmp_path) == ["c.GIF", "a.jpeg"]


def test_sizes_are_as_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (400, 300)).save(tmp_path / name, exif=exif)
    source = opened(tmp_path)
    assert source.shorter_side == 300
    assert decode.read_size(source.paths[0]) == (400, 300)
    assert [image.shape for image in source.load([0, 1])] == [(400, 300, 3)] * 2


def test_folders_are_classes(tmp_path: Path) -> None:
    put_classes(tmp_path, per_class=2, classes=("dog", "cat"))
    (tmp_path / "empty").mkdir()
    source = opened(tmp_path)
    assert names(source, tmp_path) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1])
    assert source.subset([3, 0]).labels.tolist() == [1, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize("paths", [("x/a.png", "x/b.png"), ("x/a.png", "b.png"), ("x/y/a.png", "x/y/b.png")])
def test_other_layouts_have_no_labels(tmp_path: Path, paths: tuple[str, ...]) -> None:
    for path in paths:
        put(tmp_path / path)
    assert opened(tmp_path).labels is None


def test_folder_called_like_an_image(tmp_path: Path) -> None:
    put(tmp_path / "x.jpg" / "a.png")
    put(tmp_path / "b.png")
    (tmp_path / "y.jpg").mkdir()
    source = opened(tmp_path, max_unreadable=0)
    assert names(source, tmp_path) == ["b.png", "x.jpg/a.png"]
    assert source.unreadable == ()


def test_links_are_followed_but_not_round_and_round(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.png")
    put(tmp_path / "photos" / "b.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    assert names(opened(tmp_path / "photos"), tmp_path / "photos") == ["b.png", "linked/a.png"]


def put_damaged(root: Path) -> dict[str, str]:
    """Bad files of every kind; name -> reason, or the start of it."""
    put(root / "whole.jpg", size=(64, 64))
    (root / "cut.jpg").write_bytes((root / "whole.jpg").read_bytes()[:-30])
    (root / "empty.jpg").touch()
    (root / "text.png").write_text("hello")
    (root / "broken_link.png").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.gif")
    return {
        "broken_link.png": "no such file",
        "cut.jpg": "image file is truncated",
        "empty.jpg": "empty file",
        "pipe.gif": "not a regular file",
        "text.png": "not an image",
    }


def test_damaged_files_are_named_and_left_out(tmp_path: Path) -> None:
    reasons = put_damaged(tmp_path)
    for i in range(4):
        put(tmp_path / f"{i}.png")
    with pytest.warns(
        UserWarning, match=r"5 of 10 files in .* left out: broken_link.png \(no such .* and 2 more"
    ) as seen:
        source = opened(tmp_path, max_unreadable=0.5)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert len(source) == 5
    assert [bad.path.name for bad in source.unreadable] == list(reasons)
    for bad in source.unreadable:
        assert bad.reason.startswith(reasons[bad.path.name]), bad
    with pytest.raises(
        ValueError, match=r"5 of 10 .*max_unreadable 0.49: .*text.png \(not an image\).*--max_unreadable"
    ):
        open_source(tmp_path, max_unreadable=0.49)


def test_the_error_names_ten_files(tmp_path: Path) -> None:
    for i in range(13):
        (tmp_path / f"{i:02}.jpg").touch()
    with pytest.raises(ValueError, match=r"13 of 13 .*09.jpg \(empty file\), … and 3 more") as caught:
        open_source(tmp_path)
    assert "10.jpg" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_stay_with_their_images_when_one_is_left_out(tmp_path: Path) -> None:
    put_classes(tmp_path, per_class=3)
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 6"):
        source = opened(tmp_path, max_unreadable=0.2)
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1, 1])


def test_a_file_that_goes_bad_later(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    source = opened(tmp_path)
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.png cannot be read: no such file"):
        list(source.load([1]))


def test_few_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no images in .* \(looked for \.jpg, \.jpeg, .*\.png, "):
        open_source(tmp_path)
    put(tmp_path / "a.png")
    assert len(open_source(tmp_path)) == 1


def test_unknown_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # the last two are the tests' own
    names = "cifar10, fashion-mnist, digits, cifar100, stl10, imagenette, eurosat, few, stripes"
    with pytest.raises(ValueError, match=rf"^data 'nowhere' is neither a folder nor one of {names}$"):
        open_source("nowhere")
    with pytest.raises(ValueError, match=r"did you mean cifar10\?"):
        open_source("CIFAR-10")
    with pytest.raises(ValueError, match="max_unreadable 2 is not"):
        open_source(tmp_path, max_unreadable=2)
    put_classes(tmp_path / "digits")  # a folder by the name of a set is meant as a path
    assert len(opened(Path("digits"))) == len(open_source("./digits")) == 10


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_classes(tmp_path)

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match=r"cannot be read: Permission denied"):
        open_source(tmp_path)


def test_second_survey_decodes_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counting(path: Path, read: object = decode.read_size) -> tuple[int, int]:
        decoded.append(path.name)
        return read(path)  # type: ignore[operator, no-any-return]

    monkeypatch.setattr(decode, "read_size", counting)
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path / name)
    opened(tmp_path)
    assert sorted(decoded) == ["a.png", "b.png", "c.png"]
    decoded.clear()
    assert opened(tmp_path).shorter_side == 3
    assert decoded == []
    put(tmp_path / "b.png", size=(40, 30))
    assert (opened(tmp_path).shorter_side, opened(tmp_path).smallest_side) == (3, 3)
    assert decoded == ["b.png"]
    os.utime(tmp_path / "c.png", ns=(0, 0))
    opened(tmp_path)
    assert decoded == ["b.png", "c.png"]


def test_a_cache_that_is_damaged_or_has_no_place_does_no_harm(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    opened(tmp_path)
    (kept,) = own_cache.rglob("*.npy")
    for rubbish in ("{", "[]", '{"a": 3}'):
        kept.write_text(rubbish)
        assert len(opened(tmp_path)) == 2
    (own_cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "file"))
    assert len(opened(tmp_path)) == 2


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_splits_beside_each_other(tmp_path: Path, held_out: str) -> None:
    put_classes(tmp_path / "train", per_class=3)
    put_classes(tmp_path / held_out, per_class=2)
    assert len(open_source(tmp_path)) == 6
    assert len(open_source(tmp_path, "test")) == 4
    train, test = open_splits(str(tmp_path))
    assert (len(train), len(test), train.classes, test.classes) == (6, 4, ("cat", "dog"), ("cat", "dog"))


def test_imagenets_test_folder_without_classes_is_not_the_test_split(tmp_path: Path) -> None:
    put_classes(tmp_path / "train")
    put_classes(tmp_path / "val", per_class=2)
    for i in range(3):
        put(tmp_path / "test" / f"{i}.png")
    assert len(open_source(tmp_path, "test")) == 4


def test_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    put_classes(tmp_path, per_class=11, classes=("a", "b"))
    put(tmp_path / "c" / "0.png")
    put(tmp_path / "c" / "1.png")
    put(tmp_path / "d" / "0.png")
    assert len(open_source(tmp_path)) == 25
    train, test = open_splits(tmp_path)
    assert isinstance(train, FolderSource)
    assert isinstance(test, FolderSource)
    assert test.labels is not None
    np.testing.assert_array_equal(np.bincount(test.labels, minlength=4), [2, 2, 1, 0])
    assert set(train.paths) | set(test.paths) == set(opened(tmp_path).paths)
    assert not set(train.paths) & set(test.paths)
    again = open_splits(tmp_path)[1]
    assert isinstance(again, FolderSource)
    assert list(again.paths) == list(test.paths)


def test_data_that_cannot_be_evaluated_on(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    with pytest.raises(ValueError, match="has no labels: give --data labelled images"):
        open_splits(tmp_path)
    with pytest.raises(ValueError, match="has no test split"):
        open_source(tmp_path, "test")


def test_digits() -> None:
    train, test = open_splits("digits")
    assert isinstance(train, ArraySource)
    assert isinstance(test, ArraySource)
    assert train.images.shape == (1442, 8, 8, 3)
    assert test.classes == tuple("0123456789")
    assert (train.shorter_side, train.smallest_side, train.unreadable) == (8, 8, ())
    assert train.labels is not None
    assert test.labels is not None
    counts = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(test.labels), counts // 5)
    np.testing.assert_array_equal(np.bincount(train.labels), counts - counts // 5)
    everything = np.concatenate([train.images, test.images])
    assert (everything[..., :1] == everything).all()
    assert sorted(map(bytes, everything[..., 0])) == sorted(
        bytes(np.round(image / 16 * 255).astype(np.uint8)) for image in load_digits().images
    )
    np.testing.assert_array_equal(open_source("digits", "test").load([3, 5]), test.images[[3, 5]])


def test_a_validation_split_holds_training_images_alone() -> None:
    """As sets of bytes: what is held out is of the training split, a fifth of each class, and never trained on."""
    whole = open_source("digits")
    train, test = open_splits("digits-validation")
    parts = [sorted(map(bytes, source.load(range(len(source))))) for source in (train, test, whole)]
    assert sorted(parts[0] + parts[1]) == parts[2]
    assert whole.labels is not None
    assert test.labels is not None
    np.testing.assert_array_equal(np.bincount(test.labels), np.bincount(whole.labels) // 5)
    assert (train.name, test.classes) == ("digits-validation", whole.classes)


def test_array_source() -> None:
    images = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    source = ArraySource("mine", images, np.array([2, 0, 1]), ("a", "b", "c"))
    part = source.subset([2, 0])
    np.testing.assert_array_equal(part.images, images[[2, 0]])
    np.testing.assert_array_equal(part.labels, [1, 2])
    assert (len(part), part.shorter_side, source.load([]).shape) == (2, 4, (0, 4, 5, 3))
    assert ArraySource("mine", images, None, ()).subset([0]).labels is None
    with pytest.raises(ValueError, match=r"images of mine are float64 \[2\], not uint8 \[n, H, W, C\]"):
        ArraySource("mine", np.zeros(2), None, ())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 images and 1 labels"):
        ArraySource("mine", images, np.array([0]), ("a",))


def test_opening_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    before = list(warnings.filters)
    list(opened(tmp_path).load([0]))
    assert list(warnings.filters) == before
