"""Images that cannot be read.

In training, an image that cannot be read is replaced by the next one in the order of the source. What a batch contains
is therefore a function of the files: it is the same for any number of workers and in a resumed run. In an evaluation,
the image is left out.
"""

from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data.images import Images, Pixels
from adco.data.sources.protocol import Source, Unreadable
from adco.errors import InputError

MOST_IN_A_ROW = 100  # images; if so many in a row cannot be read, the file system rather than the files is damaged


class DamagedImage(InputError):
    """An image of a source cannot be read.

    Args:
        path: its file.
        reason: why it cannot be read, in a few words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # pickled with these arguments
        self.file = Unreadable(path, reason)

    def __str__(self) -> str:
        return f"{self.file.path} cannot be read: {self.file.reason}"


def load_or_next(source: Source, wanted: NDArray[np.int64], damaged: MutableMapping[int, Unreadable]) -> Images:
    """Return the images at the indices `wanted`, and for each that cannot be read the next one that can be.

    After the last image of the source follows the first.

    Args:
        source: the images.
        wanted: [B]; the index of an image that cannot be read is overwritten by that of the image in its place.
        damaged: gets the images that cannot be read, by their index.

    Raises:
        InputError: while iterating, if `MOST_IN_A_ROW` images in a row cannot be read.
    """
    return source.load(wanted) if source.in_memory else _load_or_next(source, wanted, damaged)


def _load_or_next(
    source: Source, wanted: NDArray[np.int64], damaged: MutableMapping[int, Unreadable]
) -> Iterator[Pixels]:
    place = in_a_row = 0
    while place < len(wanted):
        try:
            for pixels in source.load(wanted[place:]):
                yield pixels
                place, in_a_row = place + 1, 0
        except DamagedImage as error:
            damaged[int(wanted[place])] = error.file
            in_a_row += 1
            if in_a_row == min(MOST_IN_A_ROW, len(source)):
                raise InputError(
                    f"{in_a_row} images of {source.name} in a row cannot be read; the last: {error}"
                ) from error
            wanted[place] = (wanted[place] + 1) % len(source)


def load_readable(source: Source, wanted: NDArray[np.int64], damaged: MutableMapping[int, Unreadable]) -> Images:
    """Return the images at the indices `wanted` that can be read; `damaged` gets the others, by their index."""
    return source.load(wanted) if source.in_memory else _load_readable(source, wanted, damaged)


def _load_readable(
    source: Source, wanted: NDArray[np.int64], damaged: MutableMapping[int, Unreadable]
) -> Iterator[Pixels]:
    place = 0
    while place < len(wanted):
        try:
            for pixels in source.load(wanted[place:]):
                yield pixels
                place += 1
        except DamagedImage as error:
            damaged[int(wanted[place])] = error.file
            place += 1


def still_damaged(source: Source, indices: Iterable[int]) -> dict[int, Unreadable]:
    """Return those of these images that cannot be read, by their index."""
    found = {}
    for index in indices:
        try:
            deque(source.load([index]), maxlen=0)
        except DamagedImage as error:
            found[index] = error.file
    return found


def too_many(root: str | Path, unreadable: Sequence[Unreadable], files: int, max_unreadable: float) -> str | None:
    """Return a text about unreadable files if their share is above the maximum, otherwise None.

    Args:
        root: the folder.
        unreadable: the files in it that cannot be read.
        files: the number of all files in it.
        max_unreadable: the largest share of unreadable files, 0 to 1.
    """
    if len(unreadable) / files <= max_unreadable:
        return None
    share = f"a share above max_unreadable {max_unreadable}"
    return f"{count_files(root, unreadable, files)}, {share}: {list_files(root, unreadable, 10)}"


def count_files(root: str | Path, unreadable: Sequence[Unreadable], files: int) -> str:
    """Return for example "3 of 2000 files in photos cannot be read"."""
    return f"{len(unreadable)} of {files} files in {root} cannot be read"


def list_files(root: str | Path, unreadable: Sequence[Unreadable], limit: int) -> str:
    """List at most `limit` files with their reasons, then the number of the others."""
    paths = (f.path.relative_to(root) if f.path.is_relative_to(root) else f.path for f in unreadable[:limit])
    listed = [f"{path} ({file.reason})" for path, file in zip(paths, unreadable, strict=False)]
    return ", ".join(listed) + (f", … and {len(unreadable) - limit} more" if len(unreadable) > limit else "")
