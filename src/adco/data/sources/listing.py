"""List the images in a folder, the files left out, and the train and test folders. No file is opened."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adco.data.sources.decode import OF_IMAGES, SUFFIXES, TO_INSTALL
from adco.data.sources.handover import Arrays, once_per_node
from adco.data.sources.paths import Paths
from adco.data.sources.registry import Split
from adco.errors import InputError

TRAINING = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation", "eval", "dev")  # in order of preference
MAX_SUFFIXES = 8  # a message about left-out files lists at most so many suffixes


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Args:
        root: the folder.
        images: all images, folder by folder.
        counts: folder → the number of images directly in it, for each folder that has any, in the order of `images`.
        left_out: suffix in lower case → the number of files left out because they have this suffix.
        unlisted: one error for each folder that could not be listed.
    """

    root: Path
    images: Paths
    counts: Mapping[Path, int]
    left_out: Mapping[str, int]
    unlisted: tuple[OSError, ...]

    def warning(self) -> str:
        """Return one line about folders that cannot be listed and images in unsupported formats, "" for neither."""
        parts = [f"{display_path(Path(e.filename))}/ cannot be listed ({e.strerror})" for e in self.unlisted]
        if any(suffix in OF_IMAGES for suffix in self.left_out):
            parts.append(describe_left_out(self.left_out))
        return "; ".join(parts)

    def to_arrays(self) -> Arrays:
        """Return the listing without its root as arrays, for other processes."""
        rest = {
            "counts": {str(folder): count for folder, count in self.counts.items()},
            "left_out": dict(self.left_out),
            "unlisted": [(error.errno, error.strerror, error.filename) for error in self.unlisted],
        }
        return {"names": np.frombuffer(self.images.names, np.uint8), "rest": np.array(json.dumps(rest))}

    @classmethod
    def from_arrays(cls, root: Path, arrays: Arrays) -> "Listing":
        """Return the listing of `root` that these arrays were made from."""
        rest = json.loads(str(arrays["rest"]))
        counts = {Path(folder): count for folder, count in rest["counts"].items()}
        unlisted = tuple(OSError(*error) for error in rest["unlisted"])
        return cls(root, Paths.below(root, arrays["names"].tobytes()), counts, rest["left_out"], unlisted)


def list_images(root: Path) -> Listing:
    """List the images in `root` and all folders below it, by their suffix in upper or lower case.

    Hidden files and folders are skipped. Symbolic links are followed. Of several processes that train together, one of
    each node lists the folder.

    Raises:
        InputError: no images were found.
        OSError: `root` cannot be listed.
    """
    return Listing.from_arrays(root, once_per_node(f"images in {root}", lambda: _list_images(root).to_arrays()))


def _list_images(root: Path) -> Listing:
    names: list[bytes] = []  # of each folder
    counts: dict[Path, int] = {}
    left_out: Counter[str] = Counter()
    errors: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=errors.append, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != "." and not _leads_back(folder, name))
        visible = sorted(name for name in files if name[0] != ".")
        if images := [name for name in visible if is_image(name)]:
            prefix = f"{Path(folder).relative_to(root)}{os.sep}" if Path(folder) != root else ""
            names.append(os.fsencode("".join(f"{prefix}{name}\0" for name in images)))
            counts[Path(folder)] = len(images)
        if len(images) < len(visible):
            left_out.update(Path(name).suffix.lower() for name in visible if not is_image(name))
    for error in errors:
        if Path(error.filename) == root:
            raise error
    if not counts:
        why = f"; {describe_left_out(left_out)}" if left_out else ""
        raise InputError(f"no images in {root} (looked for {', '.join(SUFFIXES)}){why}")
    return Listing(root, Paths.below(root, b"".join(names)), counts, left_out, tuple(errors))


def _leads_back(folder: str, name: str) -> bool:
    """True if the folder's subfolder is a link to the folder or to one of its parents: it would loop for ever."""
    path = Path(folder, name)
    return path.is_symlink() and Path(folder).resolve().is_relative_to(path.resolve())


def is_image(name: str) -> bool:
    """True if files with this suffix can be read."""
    return name.lower().endswith(SUFFIXES)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Describe the left-out files: the number for each suffix, images first, and what to install to read them.

    Return "" if no files were left out.
    """
    ordered = sorted(left_out, key=lambda suffix: (suffix not in OF_IMAGES, -left_out[suffix], suffix))
    parts = []
    for suffix in ordered[:MAX_SUFFIXES]:
        hint = f" ({TO_INSTALL[suffix]})" if suffix in TO_INSTALL else ""
        parts.append(f"{left_out[suffix]} {suffix or 'without a suffix'}{hint}")
    if len(ordered) > MAX_SUFFIXES:
        parts.append(f"{sum(left_out[suffix] for suffix in ordered[MAX_SUFFIXES:])} of other kinds")
    return f"left out: {', '.join(parts)}" if parts else ""


def split_folders(root: Path) -> Mapping[Split, Path]:
    """Map split names to folders: "train" and "test", only "train", or nothing if `root` has no splits.

    The training folder is `train/` or `training/`; the test folder is `test/`, `testing/`, `val/`, `valid/`,
    `validation/`, `eval/` or `dev/`, in upper or lower case. Of several test folders, the first in this order that has
    subfolders is used, because ImageNet's `test/` has no class folders. "train" is returned without "test" only if
    `root` contains no other folders and no images.
    """
    with os.scandir(root) as entries:  # not root.iterdir(), which takes seconds for 300 000 files in one folder
        folders = sorted(root / entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    train = _named(folders, TRAINING)
    held_out = _named(folders, HELD_OUT)
    if train and held_out:
        with_classes = (folder for folder in held_out if any(child.is_dir() for child in folder.iterdir()))
        return {"train": train[0], "test": next(with_classes, held_out[0])}
    if train and folders == train[:1]:
        others = (child.name for child in root.iterdir() if child not in folders and child.name[0] != ".")
        return {} if any(map(is_image, others)) else {"train": train[0]}
    return {}


def display_path(path: Path) -> str:
    """Return the path for messages: relative if it is below the current directory, otherwise unchanged."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _named(folders: list[Path], names: tuple[str, ...]) -> list[Path]:
    """Return the folders with these names, in upper or lower case, in the order of the names."""
    return sorted((f for f in folders if f.name.lower() in names), key=lambda f: names.index(f.name.lower()))
