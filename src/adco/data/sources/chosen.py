"""What sources have in common whose images are chosen from others by their index: their labels and sizes."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.labels import Labels
from adco.data.sources.protocol import Unreadable

SAMPLE = 256  # images that are looked at before training, to know what sizes there are


def sample(length: int) -> NDArray[np.int64]:
    """Return the indices of some images, evenly spaced, from which the sizes of all are estimated."""
    return np.unique(np.linspace(0, length - 1, min(SAMPLE, length)).astype(np.int64))


class Chosen:
    """Properties of a source that has labels given as values, and reads its images when they are asked for.

    A subclass is a dataclass with the attributes `chosen` [n], the place of each image, and `given`, the labels.
    """

    chosen: NDArray[np.int64]
    given: Labels

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Labels [n], −1 for an image without a class; None if no image has one."""
        return self.given.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.given.classes

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """Always empty: images are first read in training."""
        return ()

    @property
    def shorter_side(self) -> int:
        """The median of the shorter sides of some images, in pixels."""
        return int(np.median(self._sides))

    @property
    def smallest_side(self) -> int:
        """The smallest of the shorter sides of those images, in pixels."""
        return int(self._sides.min())

    @cached_property
    def _sides(self) -> NDArray[np.int64]:
        return self.sample_sides()

    def sample_sides(self) -> NDArray[np.int64]:
        """Return the shorter sides of the images of a `sample`, in pixels."""
        raise NotImplementedError
