"""A source of encoded images, such as JPEGs, that are kept anywhere: in files, in archives, in a table.

Where they are kept is a `Store`. Everything else is the same for all of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from adco.data.damage import DamagedImage
from adco.data.sources import decode
from adco.data.sources.chosen import Chosen, sample
from adco.data.sources.labels import Labels
from adco.data.sources.protocol import Indices
from adco.data.sources.reading import RGB, Reading
from adco.errors import InputError
from adco.words import counted

Result = TypeVar("Result")


class Store(Protocol):
    """The contents of image files, read by their index. Picklable, because each loader worker has a copy."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int) -> bytes:
        """Return the content of an image file; several threads may call this at once."""

    def where(self, index: int) -> str:
        """Say where an image is, for messages."""


@dataclass(frozen=True, eq=False)
class EncodedSource(Chosen):
    """Encoded images, decoded at every read exactly as those of a folder.

    Args:
        name: name of the source, for messages.
        store: where the images are kept.
        chosen: [n], the index in the store of each image of the source.
        given: label of each image of the source, and class names.
        layout: text for the user about the classes and what is left out; "" for the number of classes.
        reading: how the images are read.
    """

    name: str
    store: Store
    chosen: NDArray[np.int64]
    given: Labels
    layout: str = ""
    reading: Reading = RGB

    @property
    def description(self) -> str:
        """One line for the user: the number of images and classes, and what is left out."""
        return f"{self.name}: {counted(len(self), 'image')}, {self.layout or self.given.describe()}"

    @property
    def in_memory(self) -> bool:
        """False: images are decoded at every read."""
        return False

    def sample_sides(self) -> NDArray[np.int64]:
        size = decode.header_size if self.reading == RGB else lambda content: self._read(content).shape[:2]
        sides, damaged = [], None
        for index in sample(len(self)):
            try:
                sides.append(min(self._decoded(index, size)))
            except DamagedImage as error:  # training replaces and counts such images
                damaged = error
        if not sides:
            raise InputError(f"no image of {self.name} can be read; one of them: {damaged}") from damaged
        return np.array(sides)

    def load(self, indices: Indices) -> Iterator[NDArray[np.uint8]]:
        """Return an iterator over the images at these indices, each [H, W, C], upright.

        Raises:
            DamagedImage: while iterating, if an image cannot be read.
        """
        return (self._decoded(index, self._read) for index in indices)

    def where(self, index: int) -> str:
        """Return where an image is: its path, or its place in an archive or a table."""
        return self.store.where(int(self.chosen[index]))

    def subset(self, indices: Indices) -> "EncodedSource":
        """Return a source with only these images, in this order."""
        return replace(self, chosen=self.chosen[np.asarray(indices, np.int64)], given=self.given.subset(indices))

    def read_as(self, reading: Reading) -> "EncodedSource":
        """Return a source whose images are read in another way."""
        return replace(self, reading=reading)

    def _read(self, content: bytes) -> NDArray[np.uint8]:
        return decode.read(content, self.reading)

    def _decoded(self, index: int, decoded: Callable[[bytes], Result]) -> Result:
        place = int(self.chosen[index])
        try:
            return decoded(self.store.read(place))
        except Exception as error:  # Pillow raises errors of a dozen types on damaged files
            raise DamagedImage(Path(self.store.where(place)), decode.reason(error)) from error
