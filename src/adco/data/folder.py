"""Images in files, decoded at every read."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data import decode
from adco.data.classes import Classes
from adco.data.listing import Listing, describe_left_out, shown
from adco.data.survey import survey
from adco.words import counted

Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Unreadable:
    """A file that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Files, decoded at every read.

    Args:
        name: what to call it.
        paths: n of them.
        sizes: [n, 2], height and width in pixels as seen, after EXIF orientation.
        labels: [n], indices into `classes`, −1 for an image that lies in no class folder; None if there are no classes.
        classes: their names.
        unreadable: the files that were left out.
        layout: in words, what the classes are named by, or why there are none.
    """

    name: str
    paths: tuple[Path, ...]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    layout: str = "no classes"

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def description(self) -> str:
        """One line for the user: how many images, and what their classes are named by."""
        return f"{shown(Path(self.name))}/: {len(self):,} images, {self.layout}"

    @property
    def shorter_side(self) -> int:
        """The median over the images of their shorter side, in pixels."""
        return int(np.median(self.sizes.min(axis=1)))

    @property
    def smallest_side(self) -> int:
        """The shortest side of all, in pixels."""
        return int(self.sizes.min())

    def load(self, indices: Indices) -> Iterator[NDArray[np.uint8]]:
        """B images [H, W, 3], upright and in RGB (see `decode.read_rgb`), each decoded when it is its turn.

        Raises:
            ValueError: a file has become unreadable, or another picture, since it was checked.
        """
        return (_read(self.paths[index], self.sizes[index]) for index in indices)

    def subset(self, indices: Indices) -> "FolderSource":
        """These files only, in this order."""
        chosen = np.asarray(indices, np.int64)
        paths = tuple(self.paths[index] for index in indices)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, paths=paths, sizes=self.sizes[chosen], labels=labels)


def open_folder(listing: Listing, classes: Classes, max_unreadable: float) -> FolderSource:
    """All readable images of a listing, with their classes.

    Raises:
        ValueError: fewer than two images, or a share above `max_unreadable` of damaged files.
    """
    root, paths = listing.root, listing.paths()
    found = survey(root, paths)
    good = [index for index, size in enumerate(found) if not isinstance(size, str)]
    bad = tuple(Unreadable(p, why) for p, why in zip(paths, found, strict=True) if isinstance(why, str))
    _report(root, bad, len(paths), max_unreadable)
    if len(good) < 2:
        raise ValueError(f"{counted(len(good), 'readable image')} in {root}: at least two are needed")
    if warning := listing.warning():
        warnings.warn(warning, stacklevel=3)
    layout = classes.words
    if listing.left_out and not warning:
        layout += f"; {describe_left_out(listing.left_out)}"
    return FolderSource(
        name=str(root),
        paths=tuple(paths[index] for index in good),
        sizes=np.array([found[index] for index in good], np.int64),
        labels=None if classes.labels is None else classes.labels[good],
        classes=classes.names,
        unreadable=bad,
        layout=layout,
    )


def _report(root: Path, bad: Sequence[Unreadable], files: int, max_unreadable: float) -> None:
    """Warn of unreadable files, or raise where there are more than allowed."""
    if not bad:
        return
    count = f"{len(bad)} of {files} files in {root} cannot be read"
    if len(bad) / files > max_unreadable:
        raise ValueError(
            f"{count}, a share above max_unreadable {max_unreadable}: {_names(root, bad, 10)}. "
            "Mend or remove such files, or raise --max_unreadable"
        )
    warnings.warn(f"{count}; left out: {_names(root, bad, 3)}", stacklevel=4)


def _names(root: Path, bad: Sequence[Unreadable], most: int) -> str:
    named = [f"{file.path.relative_to(root)} ({file.reason})" for file in bad[:most]]
    return ", ".join(named) + (f", … and {len(bad) - most} more" if len(bad) > most else "")


def _read(path: Path, size: NDArray[np.int64]) -> NDArray[np.uint8]:
    try:
        pixels = decode.read_rgb(path)
    except Exception as error:  # Pillow raises errors of a dozen types on damaged files
        raise ValueError(f"{path} can no longer be read: {decode.reason(error)}") from error
    if pixels.shape[:2] != tuple(size):
        raise ValueError(f"{path} had {size[0]} x {size[1]} pixels and has {pixels.shape[0]} x {pixels.shape[1]} now")
    return pixels
