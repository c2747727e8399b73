"""Labels and class names of images whose classes are given as values: in a table, next to each image, …

n is the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.protocol import Indices
from adco.words import counted


@dataclass(frozen=True)
class Labels:
    """The labels of a source's images.

    Args:
        labels: [n], indices into `classes`, −1 for an image without a class; None if no image has one.
        classes: class names.
    """

    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the number of classes, for the user."""
        if self.labels is None:
            return "no classes"
        without = int((self.labels < 0).sum())
        strays = f" ({counted(without, 'image')} without one)" if without else ""
        return counted(len(self.classes), "class", "classes") + strays

    def subset(self, indices: Indices) -> "Labels":
        """Return the labels of only these images, in this order."""
        return self if self.labels is None else replace(self, labels=self.labels[np.asarray(indices, np.int64)])


def number_classes(values: Sequence[str] | NDArray[np.str_]) -> Labels:
    """Return the labels for classes given by their names, in alphabetical order; if all are numbers, in that of these.

    Args:
        values: [n], the class of each image; "" for an image without one.
    """
    names, inverse = np.unique(np.asarray(values, np.str_), return_inverse=True)
    found = [str(name) for name in names if name]
    if not found:
        return Labels()
    try:
        ordered = sorted(found, key=int)
    except ValueError:
        ordered = found
    numbers = {name: number for number, name in enumerate(ordered)} | {"": -1}
    return Labels(np.array([numbers[str(name)] for name in names], np.int64)[inverse], tuple(ordered))
