"""Held-out test splits for data that has none."""

import numpy as np
from numpy.typing import NDArray


def hold_out(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices to keep and those to hold out.

    A fifth of each class is held out, but at least one image if the class has two or more. Images without a class, with
    the label −1, are kept. The choice is deterministic.
    """
    generator = np.random.default_rng(0)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        members = generator.permutation(np.flatnonzero(labels == label))
        held_out[members[: max(len(members) // 5, int(len(members) > 1))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
