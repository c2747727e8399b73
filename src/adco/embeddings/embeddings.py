"""Embeddings of images: arrays that belong together.

Shapes: n images, F feature width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.protocol import Unreadable
from adco.errors import InputError


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of images, in the order of their source, without the images that could not be read.

    Args:
        paths: where each image is: its path, its place in an archive or a table, or its number in the source.
        labels: [n], indices into `classes`, −1 for an image without a class; None if there are no classes.
        classes: class names.
        embeddings: [n, F] float32, the backbone's features.
        unreadable: the images that could not be read, and why.
    """

    paths: list[str]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    embeddings: NDArray[np.float32]
    unreadable: tuple[Unreadable, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.paths), len(self.embeddings), *([] if self.labels is None else [len(self.labels)])}
        if self.embeddings.ndim != 2 or len(lengths) > 1:
            labels = "no" if self.labels is None else len(self.labels)
            shape = list(self.embeddings.shape)
            raise InputError(f"{len(self.paths)} paths, {labels} labels and embeddings {shape} do not belong together")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def directions(self) -> NDArray[np.float32]:
        """The embeddings divided by their norms, [n, F]. Their dot products are cosine similarities."""
        norms = np.linalg.norm(self.embeddings, axis=1, keepdims=True)
        directions: NDArray[np.float32] = self.embeddings / np.maximum(norms, np.finfo(np.float32).tiny)
        return directions
