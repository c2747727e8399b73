"""Typical folders of images for first runs: subsets of named data sets, photographs, drawings, icons, emoji.

Photographs, drawings and icons come from Debian packages, fetched with apt-get download:

- photographs: 36 tiles of 128 px from each background image; the class of a tile is the image it was cut from
- drawings: Tux Paint's stamps, PNG files of many sizes with transparency; their folders are the classes
- icons: Oxygen's icons of 64 px, PNG files with transparency; their folders are the classes

Emoji come from the npm registry, fetched with npm pack: emoji of 64 px, each drawn by two artists, in folders
CATEGORY/SUBCATEGORY/EMOJI.
"""

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from adco.data.sources.open import open_source
from adco.files import data_directory

TEST_IMAGES = 2000
TILE, TILES, WIDTH = 128, 36, 1280  # tile size in px, tiles per photograph, width in px of the resized photograph
PHOTOGRAPHS = ("mate-backgrounds", "gnome-backgrounds", "plasma-workspace-wallpapers")
ARTISTS = ("google", "twitter")
PLAIN = 20  # standard deviation of grey; a background below it is a plain gradient, not a photograph


def folder(name: str) -> Path:
    """Return the path of a folder by its name; create it on the first call."""
    return written_once(name, FOLDERS[name])


def written_once(name: str, write: Callable[[Path], None]) -> Path:
    """Return the path of a folder, which `write` writes on the first call; an interrupted one leaves nothing."""
    path = data_directory() / "folders" / name
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            write(Path(aside) / name)
            (Path(aside) / name).rename(path)
    return path


def data_of(source: str) -> str:
    """Return the value of the setting `data` for one of these folders or for a named data set."""
    return str(folder(source)) if source in FOLDERS else source


def _cut(data: str, images: int, path: Path) -> None:
    """Write a random subset of a named data set, balanced over classes, and 2 000 images of its test split."""
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
    """Download and unpack a Debian package; return its usr/share."""
    subprocess.run(["apt-get", "download", "-q", package], cwd=into, check=True, capture_output=True)
    (archive,) = into.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, into / package], check=True)
    return into / package / "usr" / "share"


def _largest(files: list[Path]) -> list[Path]:
    """Return the largest file of each background, of sizes such as 1920x1080.jpg and 1280x800.jpg."""
    found: dict[Path, Path] = {}
    for file in files:
        name = file.parent if re.fullmatch(r"\d+x\d+", file.stem) else file
        found[name] = max(found.get(name, file), file, key=lambda one: one.stat().st_size)
    return list(found.values())


def _photographs(path: Path) -> None:
    """Write tiles of the background images."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as aside:
        for package in PHOTOGRAPHS:
            share = _unpacked(package, Path(aside))
            for file in _largest(sorted({*share.rglob("*.jpg"), *share.rglob("*.webp")})):
                opened = Image.open(file)
                opened.draft("RGB", (WIDTH, WIDTH))  # decodes a JPEG at a reduced size, which is many times as fast
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
    """Copy the PNG files of a package; the folders directly under `below` are the classes."""
    with tempfile.TemporaryDirectory() as aside:
        root = _unpacked(package, Path(aside)) / below
        for file in sorted(root.rglob("*.png")):
            label, *rest = file.relative_to(root).parts
            if file.is_file() and rest:
                (path / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, path / label / "-".join(rest))


def _emoji(path: Path) -> None:
    """Write emoji by two artists, without those that either artist draws like another one."""
    with tempfile.TemporaryDirectory() as aside:
        pictures = dict[str, dict[str, bytes]]()
        for artist in ARTISTS:
            command = ["npm", "pack", "--silent", f"emoji-datasource-{artist}@16.0.0"]
            packed = subprocess.run(command, cwd=aside, check=True, capture_output=True, text=True).stdout.strip()
            with tarfile.open(Path(aside) / packed) as archive:
                listed = json.loads(_member(archive, "package/emoji.json"))
                pictures[artist] = {
                    one["short_name"]: _member(archive, f"package/img/{artist}/64/{one['image']}")
                    for one in listed
                    if all(one[f"has_img_{name}"] for name in ARTISTS) and one["category"] != "Component"
                }
    often = {artist: Counter(drawn.values()) for artist, drawn in pictures.items()}
    for one in listed:
        name = one["short_name"]
        if all(often[artist][drawn.get(name, b"")] == 1 for artist, drawn in pictures.items()):
            place = path / one["category"] / one["subcategory"] / name
            place.mkdir(parents=True)
            for artist, drawn in pictures.items():
                (place / f"{artist}.png").write_bytes(drawn[name])


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the contents of a file in an archive."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


FOLDERS: dict[str, Callable[[Path], None]] = {
    **{f"cifar10-{images}": partial(_cut, "cifar10", images) for images in (200, 1000, 5000)},
    "fashion-mnist-1000": partial(_cut, "fashion-mnist", 1000),
    "photographs": _photographs,
    "drawings": partial(_pictures, "tuxpaint-stamps-default", "tuxpaint/stamps"),
    "icons": partial(_pictures, "oxygen-icon-theme", "icons/oxygen/base/64x64"),
    "emoji": _emoji,
}
