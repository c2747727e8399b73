"""List the images in a folder, the files left out, and the train and test folders. No file is opened."""

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
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
# Folders that file systems, archive programs and servers make. Their files are no images of the user's, or copies.
SET_ASIDE = frozenset(("lost+found", "__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information"))
MAX_SUFFIXES = 8  # a message about left-out files lists at most so many suffixes
MAX_FOLDERS = 3  # likewise


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Args:
        root: the folder.
        images: all images, folder by folder.
        counts: folder → the number of images directly in it, for each folder that has any, in the order of `images`.
        left_out: suffix in lower case → the number of files left out because they have this suffix.
        unlisted: one error for each folder that could not be listed.
        set_aside: names of folders that were left out: hidden ones, and those in SET_ASIDE.
    """

    root: Path
    images: Paths
    counts: Mapping[Path, int]
    left_out: Mapping[str, int]
    unlisted: tuple[OSError, ...]
    set_aside: tuple[str, ...] = ()

    def warning(self) -> str:
        """Return one line about folders that cannot be listed and unsupported images; "" if there are none."""
        parts = [f"{display_path(Path(e.filename))}/ cannot be listed ({e.strerror})" for e in self.unlisted]
        if any(suffix in OF_IMAGES for suffix in self.left_out):
            parts.append(self.describe_left_out())
        return "; ".join(parts)

    def describe_left_out(self) -> str:
        """Return what was left out, suffixes before folders; "" if nothing was."""
        return describe_left_out(self.left_out, self.set_aside)

    def to_arrays(self) -> Arrays:
        """Return the listing without its root as arrays, for other processes."""
        rest = {
            "counts": {str(folder): count for folder, count in self.counts.items()},
            "left_out": dict(self.left_out),
            "set_aside": self.set_aside,
            "unlisted": [(error.errno, error.strerror, error.filename) for error in self.unlisted],
        }
        return {"names": np.frombuffer(self.images.names, np.uint8), "rest": np.array(json.dumps(rest))}

    @classmethod
    def from_arrays(cls, root: Path, arrays: Arrays) -> "Listing":
        """Return the listing of `root` that these arrays were made from."""
        rest = json.loads(str(arrays["rest"]))
        counts = {Path(folder): count for folder, count in rest["counts"].items()}
        unlisted = tuple(OSError(*error) for error in rest["unlisted"])
        images, set_aside = Paths.below(root, arrays["names"].tobytes()), tuple(rest["set_aside"])
        return cls(root, images, counts, rest["left_out"], unlisted, set_aside)


def list_images(root: Path) -> Listing:
    """List the images in `root` and all folders below it, by their suffix in upper or lower case.

    Hidden files and folders are skipped, and folders in SET_ASIDE. Symbolic links are followed. Of several processes
    that train together, one of each node lists the folder.

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
    set_aside: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=errors.append, followlinks=True):
        set_aside.update(filter(is_set_aside, folders))
        folders[:] = sorted(name for name in folders if not is_set_aside(name) and not _leads_back(folder, name))
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
        why = f"; {text}" if (text := describe_left_out(left_out, set_aside)) else ""
        raise InputError(f"no images in {root} (looked for {', '.join(SUFFIXES)}){why}")
    paths = Paths.below(root, b"".join(names))
    return Listing(root, paths, counts, left_out, tuple(errors), tuple(sorted(set_aside)))


def _leads_back(folder: str, name: str) -> bool:
    """True if the folder's subfolder is a link to the folder or to one of its parents: it would loop for ever."""
    path = os.path.join(folder, name)  # noqa: PTH118 (Path's methods raise errors where a folder may not be read)
    return os.path.islink(path) and Path(folder).resolve().is_relative_to(os.path.realpath(path))  # noqa: PTH114


def is_set_aside(name: str) -> bool:
    """True if a folder of this name is left out: a hidden one, or one that is in SET_ASIDE."""
    return name[0] == "." or name in SET_ASIDE


def is_image(name: str) -> bool:
    """True if files with this suffix can be read."""
    return name.lower().endswith(SUFFIXES)


def describe_left_out(left_out: Mapping[str, int], folders: Collection[str] = ()) -> str:
    """Describe the left-out files: the number for each suffix, images first, and what to install to read them.

    Return "" if no files or folders were left out.
    """
    ordered = sorted(left_out, key=lambda suffix: (suffix not in OF_IMAGES, -left_out[suffix], suffix))
    parts = []
    for suffix in ordered[:MAX_SUFFIXES]:
        hint = f" ({TO_INSTALL[suffix]})" if suffix in TO_INSTALL else ""
        parts.append(f"{left_out[suffix]} {suffix or 'without a suffix'}{hint}")
    if len(ordered) > MAX_SUFFIXES:
        parts.append(f"{sum(left_out[suffix] for suffix in ordered[MAX_SUFFIXES:])} of other kinds")
    if folders:
        more = f" and {len(folders) - MAX_FOLDERS} more" if len(folders) > MAX_FOLDERS else ""
        parts.append(", ".join(f"{name}/" for name in sorted(folders)[:MAX_FOLDERS]) + more)
    return f"left out: {', '.join(parts)}" if parts else ""


def split_folders(root: Path) -> Mapping[Split, Path]:
    """Map split names to folders: "train" and "test", only "train", or nothing if `root` has no splits.

    The training folder is `train/` or `training/`; the test folder is `test/`, `testing/`, `val/`, `valid/`,
    `validation/`, `eval/` or `dev/`, in upper or lower case. Of several test folders, the first in this order that has
    subfolders is used, because ImageNet's `test/` has no class folders. "train" is returned without "test" only if
    `root` contains no other folders and no images. Folders that are set aside or cannot be listed do not count.

    Raises:
        OSError: `root` cannot be listed.
    """
    folders, files = children(root)
    folders = [folder for folder in folders if not is_set_aside(folder.name)]
    train = _named(folders, TRAINING)[:1]
    if not train:
        return {}
    others = [folder for folder in folders if folder not in train and is_listable(folder)]
    if held_out := _named(others, HELD_OUT):
        return {"train": train[0], "test": next(filter(_has_folders, held_out), held_out[0])}
    return {} if others or any(is_image(file.name) for file in files) else {"train": train[0]}


def children(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders in a folder, and the other files that are not hidden, both sorted.

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as entries:  # not iterdir, which takes seconds for 300 000 files in one folder
        found = sorted((entry.name, _is_folder(entry)) for entry in entries)
    folders, files = ([folder / name for name, is_folder in found if is_folder == wanted] for wanted in (True, False))
    return folders, [file for file in files if file.name[0] != "."]


def is_listable(folder: Path) -> bool:
    """True if a folder can be listed."""
    try:
        os.scandir(folder).close()
    except OSError:
        return False
    return True


def _has_folders(folder: Path) -> bool:
    """True if there are folders in a folder that may be classes."""
    with os.scandir(folder) as entries:
        return any(_is_folder(entry) and not is_set_aside(entry.name) for entry in entries)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to a place that may not be read
        return False


def display_path(path: Path) -> str:
    """Return the path for messages: relative if it is below the current directory, otherwise unchanged."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _named(folders: list[Path], names: tuple[str, ...]) -> list[Path]:
    """Return the folders with these names, in upper or lower case, in the order of the names."""
    return sorted((f for f in folders if f.name.lower() in names), key=lambda f: names.index(f.name.lower()))
