"""Folders as people have them: which folders are classes and splits, what is left out, and what the user is told."""

import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

import tiny
from adco.data.sources import decode, listing
from adco.data.sources.folder import FolderSource
from adco.data.sources.open import labelled, open_all, open_source, open_splits
from adco.errors import InputError


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(*paths: str) -> None:
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), "red").save(path)


def fill(folder: str, number: int = 5) -> None:
    put(*(f"{folder}/{i}.png" for i in range(number)))


def opened(data: str = "photos", **arguments: Any) -> FolderSource:
    source = open_source(data, **arguments)
    assert isinstance(source, FolderSource)
    return source


def class_of(source: FolderSource) -> dict[str, str | None]:
    """Each image's class by name, from its path."""
    assert source.labels is not None
    pairs = zip(source.paths, source.labels, strict=True)
    return {path.as_posix().split("/photos/")[1]: source.classes[n] if n >= 0 else None for path, n in pairs}


def nested() -> None:
    put(*(f"photos/{kind}/{i}.png" for kind in ("animals/cat", "animals/dog", "plants/oak") for i in range(5)))


def test_nested_classes_are_the_first_level_or_the_level_asked_for() -> None:
    nested()
    first, second = opened(), opened(class_level=2)
    assert (first.classes, second.classes) == (("animals", "plants"), ("cat", "dog", "oak"))
    assert all(found == path.split("/")[0] for path, found in class_of(first).items())
    assert all(found == path.split("/")[1] for path, found in class_of(second).items())
    assert first.description == (
        "photos/: 15 images, 2 classes named after the folders directly in photos/ "
        "(--class_level 2 uses the 3 folders inside them)"
    )
    assert second.description == (
        "photos/: 15 images, 3 classes named after the folders at level 2 below photos/, such as photos/animals/cat/"
    )
    train, test = open_splits("photos", class_level=2)
    assert (len(train), len(test), test.classes) == (12, 3, ("cat", "dog", "oak"))


def test_folders_of_one_name_are_one_class() -> None:
    put("photos/monday/good/a.png", "photos/monday/bad/a.png", "photos/tuesday/good/a.png")
    assert class_of(opened(class_level=2)) == {
        "monday/bad/a.png": "bad",
        "monday/good/a.png": "good",
        "tuesday/good/a.png": "good",
    }


def test_a_level_deeper_than_any_folder_is_refused() -> None:
    nested()
    with pytest.raises(
        ValueError, match=r"^class_level 3 is too large: no image in photos/ is in a folder at that level$"
    ):
        open_source("photos", class_level=3)
    with pytest.raises(ValueError, match=r"^class_level 1 is for folders: digits has classes of its own$"):
        open_source("digits", class_level=1)


def test_a_folder_around_the_classes_is_passed() -> None:
    put("photos/all/cat/a.png", "photos/all/dog/b.png")
    assert opened().classes == ("cat", "dog")
    assert opened().description.endswith("2 classes named after the folders directly in photos/all/")


def test_a_stray_image_is_named_and_trained_on_but_not_evaluated() -> None:
    fill("photos/cat", 10)
    fill("photos/dog", 10)
    put("photos/cat/../stray.png")
    source = opened()
    assert class_of(source)["stray.png"] is None
    assert (len(source), source.classes) == (21, ("cat", "dog"))
    assert "1 of 21 images is in no class folder (photos/stray.png): used for pretraining" in source.description
    with_class = labelled(source)
    assert isinstance(with_class, FolderSource)
    assert set(with_class.paths) == {path for path in source.paths if path.name != "stray.png"}
    train, test = open_splits("photos")
    assert (len(train), len(test)) == (16, 4)
    assert train.labels is not None
    assert test.labels is not None
    assert min(train.labels.min(), test.labels.min()) == 0


def test_many_images_beside_the_folders_are_not_strays() -> None:
    fill("photos/cat")
    fill("photos/dog")
    fill("photos", 2)
    source = opened()
    assert source.labels is None
    assert source.description == (
        "photos/: 12 images, no classes: 2 of 12 images are in no class folder (such as photos/0.png); "
        "--class_level 1 uses the folders as classes"
    )
    chosen = opened(class_level=1)
    assert chosen.labels is not None
    np.testing.assert_array_equal(np.unique(chosen.labels, return_counts=True)[1], [2, 5, 5])


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["a.png", "b.png"], "all images are directly in photos/"),
        (["cat/a.png", "cat/b.png"], "all images are in one folder, photos/cat/"),
        (["a.png", "cat/b.png"], "photos/ has images and only one folder with images, photos/cat/"),
    ],
)
def test_the_path_that_decided_against_classes_is_named(paths: list[str], why: str) -> None:
    put(*(f"photos/{path}" for path in paths))
    assert opened().labels is None
    assert opened().description == f"photos/: 2 images, no classes: {why}"
    with pytest.raises(ValueError, match=f"has no labels: give --data labelled images.*{re.escape(why)}"):
        open_splits("photos")


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        *(("train", name) for name in ("test", "testing", "val", "valid", "validation", "eval", "dev")),
        *(("Train", "TEST"), ("training", "validation"), ("TRAINING", "Val")),
    ],
)
def test_splits_by_any_usual_name(train: str, held_out: str) -> None:
    for kind in ("cat", "dog"):
        fill(f"photos/{train}/{kind}", 3)
        fill(f"photos/{held_out}/{kind}", 2)
    assert [len(source) for source in open_splits("photos")] == [6, 4]
    assert opened().description.endswith(f"directly in photos/{train}/; test split photos/{held_out}/")


def test_what_lies_beside_the_splits_is_named() -> None:
    for folder in ("train", "test", "val", "extra"):
        fill(f"photos/{folder}/cat")
        fill(f"photos/{folder}/dog")
    put("photos/stray.png")
    assert opened().description.endswith("; test split photos/test/; not used: extra/, stray.png, val/")


@pytest.mark.fault("an empty test/ beside train/, in pretraining and in an evaluation")
def test_a_test_folder_without_images_is_missed_only_by_what_needs_it(report: Callable[..., None]) -> None:
    fill("photos/train/cat")
    fill("photos/train/dog")
    Path("photos/test/cat").mkdir(parents=True)
    assert opened().description.endswith("directly in photos/train/; not used: test/")
    assert len(open_all("photos")) == len(opened()) == 10
    for needs_it in (lambda: open_source("photos", "test"), lambda: open_splits("photos")):
        with pytest.raises(InputError, match=r"^no images in .*photos/test ") as raised:
            needs_it()
        report(says=raised.value)


def test_train_alone_is_the_data_and_its_folders_are_the_classes() -> None:
    fill("photos/train/cat")
    fill("photos/train/dog")
    for level in (0, 1):
        source = opened(class_level=level)
        assert (len(source), source.classes) == (10, ("cat", "dog"))
        assert [len(split) for split in open_splits("photos", class_level=level)] == [8, 2]
    assert source.description == "photos/train/: 10 images, 2 classes named after the folders directly in photos/train/"
    with pytest.raises(
        ValueError, match=r"has no test split: it needs train/ and one of test/, testing/, val/, valid/"
    ):
        open_source("photos", "test")


def test_train_beside_other_classes_is_a_class() -> None:
    fill("photos/train")
    fill("photos/bus")
    assert opened().classes == ("bus", "train")


def test_the_level_chosen_for_training_is_that_of_the_test_split() -> None:
    for kind in ("animals/cat", "plants/oak"):
        fill(f"photos/train/{kind}")
    fill("photos/test/animals/cat")
    fill("photos/test/plants/oak")
    train, test = open_splits("photos", class_level=2)
    assert train.classes == test.classes == ("cat", "oak")
    fill("photos/test/plants/rose")
    assert open_splits("photos")[1].classes == ("animals", "plants")
    assert open_splits("photos", class_level=2)[1].classes == ("cat", "oak", "rose")


@pytest.mark.fault("train/ and val/ differ in their classes")
def test_a_class_that_one_split_lacks(caplog: pytest.LogCaptureFixture, report: Callable[..., None]) -> None:
    """Labels mean the same in both. Pretraining uses all images; an evaluation leaves out what it cannot score."""
    for kind in ("train/bat", "train/cat", "train/dog", "val/ant", "val/cat", "val/dog"):
        fill(f"photos/{kind}")
    assert len(opened()) == 15
    train, test = open_splits("photos")
    assert train.classes == test.classes == ("ant", "bat", "cat", "dog")
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([1] * 5 + [2] * 5 + [3] * 5, [2] * 5 + [3] * 5)
    here = Path.cwd() / "photos"
    report(says=f"adco: {caplog.messages[-1]}")
    assert [record.message for record in caplog.records] == [
        f"classes without test images in {here / 'val'}: bat",
        f"warning: 5 test images left out of classes that {here / 'train'} does not have: ant",
    ]


def test_splits_without_a_common_class() -> None:
    for kind in ("train/bat", "train/cat", "val/ant", "val/dog"):
        fill(f"photos/{kind}")
    assert opened().classes == ("ant", "bat", "cat", "dog")
    with pytest.raises(ValueError, match=r"train has the classes bat, cat, .*val ant, dog: none is in both$"):
        open_splits("photos")


@pytest.mark.parametrize(
    "suffix", ["avif", "jfif", "jpe", "jp2", "j2k", "tga", "ppm", "ico", "dib", "PNM", "pgm", "pbm"]
)
def test_formats_are_read(suffix: str) -> None:
    if {"avif": "avif", "jp2": "jpg_2000", "j2k": "jpg_2000"}.get(suffix, "jpg") not in features.get_supported():
        pytest.skip(f"this Pillow was built without {suffix}")
    Path("photos").mkdir()
    picture = np.full((32, 48, 3), 255, np.uint8)
    picture[:, 24:] = 0  # white left of black: in every mode the same
    image = Image.fromarray(picture).convert({"pgm": "L", "pbm": "1"}.get(suffix, "RGB"))
    kind = {"jfif": "JPEG", "jpe": "JPEG", "PNM": "PPM"}.get(suffix)
    for name in ("a", "b"):
        image.save(f"photos/{name}.{suffix}", kind, **({"sizes": [(48, 32)]} if suffix == "ico" else {}))
    source = opened(max_unreadable=0)
    for read in source.load([0, 1]):
        assert read.shape == (32, 48, 3)
        np.testing.assert_allclose(read[8:24, [4, -4]], picture[8:24, [4, -4]], atol=8)


def test_photographs_of_phones_are_read_upright_with_the_extra() -> None:
    pytest.importorskip("pi_heif")
    path = Path(__file__).parent / "rotated.heic"  # red over blue, 64 × 48, to be turned clockwise
    pixels = decode.read_rgb(path)
    assert pixels.shape == (*decode.read_size(path), 3) == (48, 64, 3)
    np.testing.assert_allclose(pixels[10, [4, -4]], [(40, 40, 200), (200, 40, 40)], atol=12)


def test_files_that_are_not_read_are_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SUFFIXES", tuple(s for s in decode.SUFFIXES if s != ".heic"))
    monkeypatch.setattr(listing, "TO_INSTALL", {".heic": "pip install 'adco[heif]'"})
    monkeypatch.setattr(listing, "OF_IMAGES", {*decode.OF_IMAGES, ".heic"})
    fill("photos")
    for name in ("a.heic", "b.HEIC", "c.svg", "d.txt", "e.txt", "f.txt", "README", ".hidden"):
        Path("photos", name).write_text("something")
    with pytest.warns(
        UserWarning, match=r"^left out: 2 \.heic \(pip install 'adco\[heif\]'\), 1 \.svg, 3 \.txt, 1 wit"
    ):
        assert len(open_source("photos")) == 5
    for path in Path("photos").glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no images in .*; left out: 2 \.heic \(pip install 'adco\[heif\]'\)"):
        open_source("photos")


def test_other_files_are_named_without_a_warning() -> None:
    fill("photos")
    for suffix in "abcdefghij":
        Path("photos", f"x.{suffix}").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        description = opened().description
    assert description.endswith("; left out: 1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 1 .f, 1 .g, 1 .h, 2 of other kinds")


@pytest.mark.fault("a folder of images may not be read")
def test_a_folder_that_cannot_be_listed_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, report: Callable[..., None]
) -> None:
    fill("photos/cat")
    fill("photos/dog")
    fill("photos/owl")
    deny(monkeypatch, "owl")
    with pytest.warns(UserWarning, match=r"^photos/owl/ cannot be listed \(Permission denied\)$") as warned:
        assert opened().classes == ("cat", "dog")
    report(says=f"adco: warning: {warned[0].message}")


def deny(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Folders of these names cannot be listed; tests may run as root, who may list all."""
    scandir: Callable[[Any], Any] = os.scandir

    def denied(path: Any) -> Any:
        if Path(path).name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)


SYSTEM = ("lost+found", "__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", "System Volume Information")


@pytest.mark.fault("lost+found, __MACOSX, .ipynb_checkpoints and others among the images")
@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_systems_are_neither_classes_nor_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill("photos/cat")
    fill("photos/dog")
    fill(f"photos/{name}")
    fill(f"photos/cat/{name}")
    deny(monkeypatch, "lost+found")  # which only root may list
    source = opened()
    assert (len(source), source.classes) == (10, ("cat", "dog"))
    assert source.description.endswith(f"; left out: {name}/")


def test_a_folder_of_a_system_is_no_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside the splits, nor inside test/, where it would be taken for class folders in place of val/'s."""
    for kind in ("train/cat", "train/dog", "val/cat", "val/dog", "test/.ipynb_checkpoints", "test/lost+found"):
        fill(f"photos/{kind}")
    fill("photos/test")
    fill("photos/lost+found")
    deny(monkeypatch, "lost+found")
    train, test = open_splits("photos")
    assert "; test split photos/val/; not used: lost+found/ (cannot be listed), test/" in train.description
    assert len(test) == 10
    for folder in ("val", "test"):
        Path("photos", folder).rename(folder)
    train = opened("photos")
    assert train.classes == ("cat", "dog")
    assert train.description.endswith("; not used: lost+found/ (cannot be listed)")


def test_a_test_split_that_may_not_be_listed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("train/cat", "train/dog", "test/cat", "test/dog"):
        fill(f"photos/{kind}")
    with monkeypatch.context() as patched:
        deny(patched, "test")
        source = opened()
        assert (len(source), source.classes) == (10, ("cat", "dog"))
        assert source.description.endswith("directly in photos/train/; not used: test/ (cannot be listed)")
        fill("photos/val/cat")
        fill("photos/val/dog")
        assert "; test split photos/val/; not used: test/ (cannot be listed)" in opened().description
    deny(monkeypatch, "train")
    with pytest.raises(ValueError, match=r"^data 'photos': .*train cannot be read: Permission denied$"):
        opened()


@pytest.mark.fault("links that lead back or nowhere among the images")
def test_links_to_places_that_may_not_be_read_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fill("photos/cat")
    fill("photos/dog")
    Path("photos/loop").symlink_to("loop")
    Path("photos/back").symlink_to("..")
    assert opened().classes == ("cat", "dog")


@pytest.mark.usefixtures("no_curves")
def test_a_run_says_what_its_images_and_classes_are(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    import adco

    nested()
    with caplog.at_level(logging.INFO, "adco"):
        adco.pretrain(
            data="photos",
            class_level=2,
            epochs=1,
            batch_size=4,
            **tiny.SETTINGS,
            adversaries=4,
            image_size=3,
            precision="32-true",  # bf16 gradients of a 3 x 3 convolution over one pixel were seen to hold NaN
            workers=0,
            knn_images=0,
            out=str(tmp_path / "run"),
        )
        assert any("15 images, 3 classes named after the folders at level 2" in line for line in caplog.messages)
        with pytest.warns(UserWarning, match="only 3 test images"):
            found = adco.evaluate("knn", tmp_path / "run", k=1)
    assert found["images"] == 3
    assert list(found["per_class"]) == ["cat", "dog", "oak"]
