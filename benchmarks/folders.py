"""Folders of images as people have them, to try first runs on: cuts of named sets, photographs, drawings, icons.

Photographs, drawings and icons come out of Debian packages, fetched by apt-get download:

- photographs: tiles of 128 px, 36 of each background image; its class is the image it was cut from
- drawings: Tux Paint's stamps, PNG of many sizes with transparency, in the classes of their folders
- icons: Oxygen's icons of 64 px, PNG with transparency, in the classes of their folders
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from adco.data.cache import data_directory
from adco.data.sources import open_source

TEST_IMAGES = 2000
TILE, TILES, WIDTH = 128, 36, 1280  # px of a tile, tiles of a photograph, px of the photograph they are cut from
PHOTOGRAPHS = ("mate-backgrounds", "gnome-backgrounds", "plasma-workspace-wallpapers")
PLAIN = 20  # standard deviation of grey below which a background is a gradient rather than a photograph


def folder(name: str) -> Path:
    """A folder by its name, made at the first call."""
    path = data_directory() / "folders" / name
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            FOLDERS[name](Path(aside) / name)
            (Path(aside) / name).rename(path)
    return path


def data_of(source: str) -> str:
    """What to give as data for one of these folders, or for a named set."""
    return str(folder(source)) if source in FOLDERS else source


def _cut(data: str, images: int, path: Path) -> None:
    """The first images of each class in a random order, and 2 000 of the test split."""
    for split, count in (("train", images), ("test", TEST_IMAGES)):
        source = open_source(data, "train" if split == "train" else "test")
        assert source.labels is not None
        order = np.random.default_rng(0).permutation(len(source))
        per_class = count // len(source.classes)
        chosen = np.concatenate([order[source.labels[order] == k][:per_class] for k in range(len(source.classes))])
        for index in chosen:
            name = source.classes[source.labels[index]].replace("/", " or ")
            (path / split / name).mkdir(parents=True, exist_ok=True)
            (pixels,) = source.load([int(index)])
            Image.fromarray(pixels).save(path / split / name / f"{index:05d}.png")


def _unpacked(package: str, into: Path) -> Path:
    """The files of a Debian package."""
    subprocess.run(["apt-get", "download", "-q", package], cwd=into, check=True, capture_output=True)
    (archive,) = into.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, into / package], check=True)
    return into / package / "usr" / "share"


def _largest(files: list[Path]) -> list[Path]:
    """Of the sizes of one background, such as 1920x1080.jpg beside 1280x800.jpg, the largest file."""
    found: dict[Path, Path] = {}
    for file in files:
        name = file.parent if re.fullmatch(r"\d+x\d+", file.stem) else file
        found[name] = max(found.get(name, file), file, key=lambda one: one.stat().st_size)
    return list(found.values())


def _photographs(path: Path) -> None:
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as aside:
        for package in PHOTOGRAPHS:
            share = _unpacked(package, Path(aside))
            for file in _largest(sorted({*share.rglob("*.jpg"), *share.rglob("*.webp")})):
                opened = Image.open(file)
                opened.draft("RGB", (WIDTH, WIDTH))  # a JPEG at a fraction of its size, many times as fast
                image = opened.convert("RGB")
                if image.width < WIDTH or np.asarray(image.convert("L"), np.float64).std() < PLAIN:
                    continue
                image = image.resize((WIDTH, round(image.height * WIDTH / image.width)))
                corners = [
                    (x, y) for x in range(0, WIDTH - TILE + 1, TILE) for y in range(0, image.height - TILE, TILE)
                ]
                place = path / f"{package}-{file.parts[-4]}-{file.stem}"
                place.mkdir(parents=True, exist_ok=True)
                for x, y in random.permutation(corners)[:TILES]:
                    image.crop((x, y, x + TILE, y + TILE)).save(place / f"{x}-{y}.jpg", quality=90)


def _pictures(package: str, below: str, path: Path) -> None:
    """The PNG files of a package, with what lies directly below a folder as classes."""
    with tempfile.TemporaryDirectory() as aside:
        root = _unpacked(package, Path(aside)) / below
        for file in sorted(root.rglob("*.png")):
            label, *rest = file.relative_to(root).parts
            if file.is_file() and rest:
                (path / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, path / label / "-".join(rest))


FOLDERS: dict[str, Callable[[Path], None]] = {
    **{f"cifar10-{images}": partial(_cut, "cifar10", images) for images in (200, 1000, 5000)},
    "fashion-mnist-1000": partial(_cut, "fashion-mnist", 1000),
    "photographs": _photographs,
    "drawings": partial(_pictures, "tuxpaint-stamps-default", "tuxpaint/stamps"),
    "icons": partial(_pictures, "oxygen-icon-theme", "icons/oxygen/base/64x64"),
}
