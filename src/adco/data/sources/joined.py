"""Several sources as one: the images of the first, then those of the second, and so on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.labels import Labels
from adco.data.sources.protocol import Indices, Source, Unreadable, read_as, where
from adco.data.sources.reading import Reading


@dataclass(frozen=True, eq=False)
class JoinedSource:
    """Several sources as one; `join` makes it.

    Args:
        parts: the sources.
        place: [n, 2], the part that each image is in, and its index there.
        given: labels and class names.
    """

    parts: tuple[Source, ...]
    place: NDArray[np.int64]
    given: Labels

    def __len__(self) -> int:
        return len(self.place)

    @property
    def name(self) -> str:
        """The names of the parts, each once."""
        return ", ".join(dict.fromkeys(part.name for part in self.parts))

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Labels [n]; None unless all parts have the same classes."""
        return self.given.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty unless all parts have the same."""
        return self.given.classes

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """The files of all parts that were left out."""
        return tuple(file for part in self.parts for file in part.unreadable)

    @property
    def description(self) -> str:
        """One line for the user: the number of images, and the description of each part."""
        differ = self.labels is None and any(part.labels is not None for part in self.parts)
        without = " without classes, because those of the parts differ" if differ else ""
        parts = "; ".join(part.description for part in self.parts)
        return f"{len(self):,} images in {len(self.parts)} parts{without}: {parts}"

    @property
    def in_memory(self) -> bool:
        """Whether the images of all parts are in memory."""
        return all(part.in_memory for part in self.parts)

    @property
    def shorter_side(self) -> int:
        """The median over the images of their part's median shorter side, in pixels."""
        return int(np.median(np.array([part.shorter_side for part in self.parts])[self.place[:, 0]]))

    @property
    def smallest_side(self) -> int:
        """The smallest of the parts' smallest sides, in pixels."""
        return min(part.smallest_side for part in self.parts)

    def load(self, indices: Indices) -> Iterator[NDArray[np.uint8]]:
        """Return an iterator over the images at these indices, each [H, W, 3]."""
        for part, index in self.place[np.asarray(indices, np.int64)].tolist():
            yield from self.parts[part].load([index])

    def where(self, index: int) -> str:
        """Return where an image is in its part; its number among all images if the part cannot tell."""
        part, inside = self.place[index].tolist()
        return where(self.parts[part], inside) if hasattr(self.parts[part], "where") else str(index)

    def subset(self, indices: Indices) -> "JoinedSource":
        """Return a source with only these images, in this order."""
        return replace(self, place=self.place[np.asarray(indices, np.int64)], given=self.given.subset(indices))

    def read_as(self, reading: Reading) -> "JoinedSource":
        """Return a source whose parts are read in another way."""
        return replace(self, parts=tuple(read_as(part, reading) for part in self.parts))


def join(parts: Sequence[Source]) -> JoinedSource:
    """Return several sources as one.

    The images are labelled only if all parts have the same classes: whether different names mean different classes is
    not known.
    """
    place = np.concatenate([np.stack([np.full(len(s), i), np.arange(len(s))], 1) for i, s in enumerate(parts)])
    labels = [part.labels for part in parts if part.labels is not None]
    agree = len(labels) == len(parts) and len({part.classes for part in parts}) == 1
    given = Labels(np.concatenate(labels), parts[0].classes) if agree else Labels()
    return JoinedSource(tuple(parts), place.astype(np.int64), given)
