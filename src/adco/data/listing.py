"""What a folder holds: its images, its classes, its splits. Names only; no file is opened."""

import os
from collections.abc import Mapping
from pathlib import Path

from adco.data.decode import SUFFIXES

Listing = dict[Path, list[Path]]  # each folder with images in it -> those images; both in sorted order


def list_images(root: Path) -> Listing:
    """The images below `root`, by suffix in any case; hidden files and folders left out, links followed.

    Raises:
        ValueError: there is no image. OSError: a folder cannot be listed.
    """
    listing: Listing = {}
    for name, folders, files in os.walk(root, onerror=_raise, followlinks=True):
        folder, here = Path(name), Path(name).resolve()
        # A link to a folder above would lead round and round.
        folders[:] = sorted(f for f in folders if f[0] != "." and not here.is_relative_to((folder / f).resolve()))
        images = sorted(f for f in files if f[0] != "." and f.lower().endswith(SUFFIXES))
        if images:
            listing[folder] = [folder / image for image in images]
    if not listing:
        raise ValueError(f"no images in {root} (looked for {', '.join(SUFFIXES)})")
    return listing


def class_names(root: Path, listing: Listing) -> tuple[str, ...]:
    """The folders as classes where every image lies in one of at least two folders right below `root`; else none."""
    if len(listing) < 2 or any(folder.parent != root for folder in listing):
        return ()
    return tuple(folder.name for folder in listing)


def split_folders(root: Path) -> Mapping[str, Path]:
    """The folders of the splits "train" and "test", where `root` has `train/` beside `test/` or `val/`; else none.

    Of `test/` and `val/`, the first that has folders in it: ImageNet's `test/` has no classes.
    """
    held_out = [folder for folder in (root / "test", root / "val") if folder.is_dir()]
    if not held_out or not (root / "train").is_dir():
        return {}
    with_classes = (folder for folder in held_out if any(child.is_dir() for child in folder.iterdir()))
    return {"train": root / "train", "test": next(with_classes, held_out[0])}


def _raise(error: OSError) -> None:
    raise error
