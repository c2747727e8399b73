"""Images of one size, in memory.

B is a number of images asked for, n of images there are, H and W height and width in pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adco.data.folder import Indices, Unreadable


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images of one size, in memory.

    Args:
        name: what to call it.
        images: [n, H, W, 3].
        labels: [n], indices into `classes`; None where there are none.
        classes: their names.

    Raises:
        ValueError: images of another shape or type; another number of labels.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images of {self.name} are {found}, not uint8 [n, H, W, 3]")
        if self.labels is not None and len(self.labels) != len(self.images):
            raise ValueError(f"{self.name} has {len(self.images)} images and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        return ()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[n, 2], height and width in pixels."""
        return np.broadcast_to(np.array(self.images.shape[1:3], np.int64), (len(self), 2))

    @property
    def description(self) -> str:
        """One line for the user: how many images, of which size, and how many classes."""
        classes = f"{len(self.classes)} classes" if self.labels is not None else "no classes"
        height, width = self.images.shape[1:3]
        return f"{self.name}: {len(self):,} images of {height} × {width} px, {classes}"

    @property
    def shorter_side(self) -> int:
        """The shorter side of every image, in pixels."""
        return int(min(self.images.shape[1:3]))

    @property
    def smallest_side(self) -> int:
        """The same: the images are of one size."""
        return self.shorter_side

    def load(self, indices: Indices) -> NDArray[np.uint8]:
        """[B, H, W, 3], a copy."""
        return self.images[np.asarray(indices, np.int64)]

    def subset(self, indices: Indices) -> "ArraySource":
        """These images only, in this order."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, np.int64)]
        return ArraySource(self.name, self.load(indices), labels, self.classes)
