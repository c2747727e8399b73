"""What a source of images is. The package's own are opened by `open_source` in `open.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adco.data.images import Images
from adco.data.sources.reading import Reading

Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Unreadable:
    """A file that was left out, and the reason."""

    path: Path
    reason: str


class Source(Protocol):
    """Images that are read by their index, in any order, and as often as needed.

    Loader workers have a copy each, so a source is picklable, and small unless its images are in memory.

    Shapes: n images in the source, B requested images, H and W their height and width in pixels, C their channels: red,
    green and blue, unless the setting `channels` says otherwise.
    """

    @property
    def name(self) -> str:
        """Name of the source, for messages."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Labels [n], indices into `classes`, −1 for an image without a class; None if there are no labels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty if there are no labels."""

    @property
    def unreadable(self) -> Sequence[Unreadable]:
        """The files that were left out because they could not be read."""

    @property
    def description(self) -> str:
        """One line for the user: the number of images, and where the classes come from."""

    @property
    def in_memory(self) -> bool:
        """Whether the images are in memory. Making their views takes less time than moving them between processes."""

    @property
    def shorter_side(self) -> int:
        """The median of the images' shorter sides, in pixels; an estimate, if not all images have been read."""

    @property
    def smallest_side(self) -> int:
        """The smallest of the shorter sides of those images, in pixels."""

    def __len__(self) -> int:
        """Return n."""

    def load(self, indices: Indices) -> Images:
        """Return the images at these indices: [B, H, W, C] uint8, or B images [H, W, C] that are read one by one.

        Raises:
            adco.data.damage.DamagedImage: while iterating, if an image cannot be read. Training takes the next one in
                its place and counts it; any other error ends the run.
        """

    def subset(self, indices: Indices) -> "Source":
        """Return a source with only these images, in this order."""


def read_as(source: Source, reading: Reading) -> Source:
    """Return a source whose images have the channels that are asked for.

    A source that has no method `read_as(reading)` is returned as it is: its images must have these channels.
    """
    read: Callable[[Reading], Source] | None = getattr(source, "read_as", None)
    return source if read is None else read(reading)


def where(source: Source, index: int) -> str:
    """Return the path of an image, or another text by which the user can find it.

    For a source that has no method `where(index)`, this is the index.
    """
    found: Callable[[int], str] | None = getattr(source, "where", None)
    return str(index) if found is None else found(index)
