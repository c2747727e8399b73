"""A source of images of one size, held in memory.

Shapes: n images in the source, B requested images, H and W the height and width in pixels.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.protocol import Indices, Unreadable
from adco.data.sources.reading import Reading, with_channels
from adco.errors import InputError


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images of one size, in memory.

    Args:
        name: name of the source, for messages.
        images: [n, H, W, C].
        labels: [n], indices into `classes`; None if the images are unlabelled.
        classes: class names.

    Raises:
        InputError: the images have another shape or dtype, or the number of labels differs from that of images.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise InputError(f"images of {self.name} are {found}, not uint8 [n, H, W, C]")
        if self.labels is not None and len(self.labels) != len(self.images):
            raise InputError(f"{self.name} has {len(self.images)} images and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """Always empty."""
        return ()

    @property
    def in_memory(self) -> bool:
        """True."""
        return True

    @property
    def description(self) -> str:
        """One line for the user: the number of images, their size and the number of classes."""
        classes = f"{len(self.classes)} classes" if self.labels is not None else "no classes"
        height, width = self.images.shape[1:3]
        return f"{self.name}: {len(self):,} images of {height} × {width} px, {classes}"

    @property
    def shorter_side(self) -> int:
        """The shorter side of every image, in pixels."""
        return int(min(self.images.shape[1:3]))

    @property
    def smallest_side(self) -> int:
        """Equal to `shorter_side`, because all images have one size."""
        return self.shorter_side

    def load(self, indices: Indices) -> NDArray[np.uint8]:
        """Return a copy of the images at these indices, [B, H, W, C]."""
        return np.ascontiguousarray(self.images[np.asarray(indices, np.int64)])

    def subset(self, indices: Indices) -> "ArraySource":
        """Return a source with only these images, in this order."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, np.int64)]
        return ArraySource(self.name, self.load(indices), labels, self.classes)

    def read_as(self, reading: Reading) -> "ArraySource":
        """Return a source of images converted from grey to RGB, or from RGB to grey."""
        return replace(self, images=converted(self.images, reading.channels, f"images of {self.name} have"))


def converted(images: NDArray[np.uint8], channels: int, these_have: str) -> NDArray[np.uint8]:
    """Convert images given as arrays [..., H, W, c] to [..., H, W, C], as `with_channels` does.

    Args:
        images: one or several.
        channels: C.
        these_have: begins the error: which images, and the verb.

    Raises:
        InputError: the images have no pixels, or other channels, or look like [..., C, H, W].
    """
    shape = list(images.shape)
    if not images.size:
        raise InputError(f"{these_have} the shape {shape}: there are no pixels")
    try:
        return with_channels(images, channels)
    except ValueError as error:
        if shape[-3] in (1, 3, channels):
            axes = "0, 2, 3, 1" if len(shape) == 4 else "1, 2, 0"
            turn = f"images.transpose({axes})"
            raise InputError(f"{these_have} the shape {shape}, which looks channels-first: give {turn}") from error
        raise InputError(f"{these_have} {error}") from error
