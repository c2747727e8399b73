"""Groups of images that pairs connect."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def groups_of(pairs: NDArray[np.int64], images: int) -> list[NDArray[np.int64]]:
    """Return the connected components of at least two images, each in ascending order, by their first image.

    Args:
        pairs: [P, 2], the two images of each pair.
        images: how many there are.
    """
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (images, images))
    _, component = connected_components(graph, directed=False)
    order = np.argsort(component, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))
