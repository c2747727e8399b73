"""What a folder holds: its images, the files left out, its splits. Names only; no file is opened."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adco.data.decode import OF_IMAGES, SUFFIXES, TO_INSTALL

TRAINING = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation", "eval", "dev")  # in order of preference
NAMED = 8  # suffixes of left-out files that a message names


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Args:
        root: the folder.
        images: each folder with images in it → those images; both in sorted order.
        left_out: how many files that cannot be read there are of each suffix, in lower case.
        unlisted: the errors of the folders that could not be listed.
    """

    root: Path
    images: Mapping[Path, list[Path]]
    left_out: Mapping[str, int]
    unlisted: tuple[OSError, ...]

    def paths(self) -> list[Path]:
        """All images, in the order of the listing."""
        return [path for images in self.images.values() for path in images]

    def warning(self) -> str:
        """One line about images that are left out: of unsupported formats, or in folders that cannot be listed."""
        parts = [f"{shown(Path(e.filename))}/ cannot be listed ({e.strerror})" for e in self.unlisted]
        if any(suffix in OF_IMAGES for suffix in self.left_out):
            parts.append(describe_left_out(self.left_out))
        return "; ".join(parts)


def list_images(root: Path) -> Listing:
    """List the images below `root` by suffix in any case. Hidden files and folders are skipped, links are followed.

    Raises:
        ValueError: there is no image.
        OSError: `root` cannot be listed.
    """
    images: dict[Path, list[Path]] = {}
    left_out: Counter[str] = Counter()
    errors: list[OSError] = []
    for name, folders, files in os.walk(root, onerror=errors.append, followlinks=True):
        folder, here = Path(name), Path(name).resolve()
        # A link to a folder above would lead round and round.
        folders[:] = sorted(f for f in folders if f[0] != "." and not here.is_relative_to((folder / f).resolve()))
        visible = sorted(f for f in files if f[0] != ".")
        if found := [folder / f for f in visible if is_image(f)]:
            images[folder] = found
        left_out.update(Path(f).suffix.lower() for f in visible if not is_image(f))
    for error in errors:
        if Path(error.filename) == root:
            raise error
    if not images:
        why = f"; {describe_left_out(left_out)}" if left_out else ""
        raise ValueError(f"no images in {root} (looked for {', '.join(SUFFIXES)}){why}")
    return Listing(root, images, left_out, tuple(errors))


def is_image(name: str) -> bool:
    """True if the suffix is one that is read here."""
    return name.lower().endswith(SUFFIXES)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Count and name files that are not read, images first, with what to install to read them; "" for none."""
    ordered = sorted(left_out, key=lambda suffix: (suffix not in OF_IMAGES, -left_out[suffix], suffix))
    parts = []
    for suffix in ordered[:NAMED]:
        hint = f" ({TO_INSTALL[suffix]})" if suffix in TO_INSTALL else ""
        parts.append(f"{left_out[suffix]} {suffix or 'without a suffix'}{hint}")
    if len(ordered) > NAMED:
        parts.append(f"{sum(left_out[suffix] for suffix in ordered[NAMED:])} of other kinds")
    return f"left out: {', '.join(parts)}" if parts else ""


def split_folders(root: Path) -> Mapping[str, Path]:
    """The folders of the splits: "train" and "test", "train" alone, or none where `root` has no splits.

    `train/` or `training/` has to lie beside one of `test/`, `testing/`, `val/`, `valid/`, `validation/`, `eval/` and
    `dev/`, in any case, or be all there is in `root`. Of several held-out folders, the first that has folders in it:
    ImageNet's `test/` has no classes.
    """
    children = sorted(child for child in root.iterdir() if child.name[0] != ".")
    folders = [child for child in children if child.is_dir()]
    train = _named(folders, TRAINING)
    held_out = _named(folders, HELD_OUT)
    if train and held_out:
        with_classes = (folder for folder in held_out if any(child.is_dir() for child in folder.iterdir()))
        return {"train": train[0], "test": next(with_classes, held_out[0])}
    if train and folders == train[:1] and not any(is_image(child.name) for child in children if child not in folders):
        return {"train": train[0]}
    return {}


def shown(path: Path) -> str:
    """The path as a message names it: relative to the current directory if it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _named(folders: list[Path], names: tuple[str, ...]) -> list[Path]:
    """The folders of these names in any case, in the order of the names."""
    return sorted((f for f in folders if f.name.lower() in names), key=lambda f: names.index(f.name.lower()))
