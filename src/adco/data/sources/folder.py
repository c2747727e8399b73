"""A source of image files, decoded at every read."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data.sources import decode
from adco.data.sources.classes import Classes
from adco.data.sources.listing import Listing, describe_left_out, display_path
from adco.data.sources.protocol import Indices, Unreadable
from adco.data.sources.survey import survey
from adco.errors import InputError
from adco.words import counted


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded at every read.

    Shapes: n images in the source, H and W the height and width in pixels.

    Args:
        name: path of the folder.
        paths: n paths of image files.
        sizes: [n, 2], height and width in pixels, after EXIF orientation.
        labels: [n], indices into `classes`, −1 for an image in no class folder; None if there are no classes.
        classes: class names.
        unreadable: the files that were left out because they could not be read.
        layout: text for the user: which folders the classes come from, or why there are none.
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
        """One line for the user: the number of images, and which folders the classes come from."""
        return f"{display_path(Path(self.name))}/: {len(self):,} images, {self.layout}"

    @property
    def in_memory(self) -> bool:
        """False: files are decoded at every read."""
        return False

    @property
    def shorter_side(self) -> int:
        """The median of the images' shorter sides, in pixels."""
        return int(np.median(self.sizes.min(axis=1)))

    @property
    def smallest_side(self) -> int:
        """The smallest of the images' shorter sides, in pixels."""
        return int(self.sizes.min())

    def load(self, indices: Indices) -> Iterator[NDArray[np.uint8]]:
        """Return an iterator over the images at these indices, each [H, W, 3], upright and in RGB.

        Each file is decoded only when the iterator reaches it (see `decode.read_rgb`).

        Raises:
            InputError: while iterating, if a file can no longer be read or its size has changed since it was checked.
        """
        return (_read(self.paths[index], self.sizes[index]) for index in indices)

    def subset(self, indices: Indices) -> "FolderSource":
        """Return a source with only these files, in this order."""
        chosen = np.asarray(indices, np.int64)
        paths = tuple(self.paths[index] for index in indices)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, paths=paths, sizes=self.sizes[chosen], labels=labels)


def open_folder(listing: Listing, classes: Classes, max_unreadable: float) -> FolderSource:
    """Return a source of all readable images of a listing, with their classes.

    Raises:
        InputError: fewer than two images are readable, or the share of unreadable files is above `max_unreadable`.
    """
    root, paths = listing.root, listing.paths()
    found = survey(root, paths)
    readable = [index for index, size in enumerate(found) if not isinstance(size, str)]
    unreadable = tuple(Unreadable(p, why) for p, why in zip(paths, found, strict=True) if isinstance(why, str))
    _check_unreadable(root, unreadable, len(paths), max_unreadable)
    if len(readable) < 2:
        raise InputError(f"{counted(len(readable), 'readable image')} in {root}: at least two are needed")
    if warning := listing.warning():
        warnings.warn(warning, stacklevel=3)
    layout = classes.description
    if listing.left_out and not warning:
        layout += f"; {describe_left_out(listing.left_out)}"
    return FolderSource(
        name=str(root),
        paths=tuple(paths[index] for index in readable),
        sizes=np.array([found[index] for index in readable], np.int64),
        labels=None if classes.labels is None else classes.labels[readable],
        classes=classes.names,
        unreadable=unreadable,
        layout=layout,
    )


def _check_unreadable(root: Path, unreadable: Sequence[Unreadable], files: int, max_unreadable: float) -> None:
    """Raise InputError if the share of unreadable files is above the maximum; otherwise warn about them."""
    if not unreadable:
        return
    count = f"{len(unreadable)} of {files} files in {root} cannot be read"
    if len(unreadable) / files > max_unreadable:
        raise InputError(
            f"{count}, a share above max_unreadable {max_unreadable}: {_describe_files(root, unreadable, 10)}. "
            "Repair or remove these files, or raise --max_unreadable"
        )
    warnings.warn(f"{count}; left out: {_describe_files(root, unreadable, 3)}", stacklevel=4)


def _describe_files(root: Path, files: Sequence[Unreadable], limit: int) -> str:
    """List at most `limit` files with their reasons, then the number of the others."""
    listed = [f"{file.path.relative_to(root)} ({file.reason})" for file in files[:limit]]
    return ", ".join(listed) + (f", … and {len(files) - limit} more" if len(files) > limit else "")


def _read(path: Path, size: NDArray[np.int64]) -> NDArray[np.uint8]:
    try:
        pixels = decode.read_rgb(path)
    except Exception as error:  # Pillow raises errors of a dozen types on damaged files
        raise InputError(f"{path} can no longer be read: {decode.reason(error)}") from error
    if pixels.shape[:2] != tuple(size):
        before, now = (f"{height} x {width}" for height, width in (size, pixels.shape[:2]))
        raise InputError(f"{path} has changed since it was checked: it had {before} pixels, now {now}")
    return pixels
