"""Handwritten digits of 8 × 8 pixels, which scikit-learn contains."""

import numpy as np

from adco.data.sources.registry import Loaded, Split
from adco.data.sources.splits import hold_out


def digits(split: Split) -> Loaded:
    """Return a split of UCI's handwritten digits: images [n, 8, 8, 3], labels [n], class names.

    scikit-learn contains the 1 797 images, [1797, 8, 8] with values 0..16. They have no official test split.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # slow import, about a second

    loaded = load_digits()
    grey = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    labels = loaded.target.astype(np.int64)
    kept, held_out = hold_out(labels)
    chosen = held_out if split == "test" else kept
    return np.repeat(grey[chosen, ..., None], 3, axis=-1), labels[chosen], tuple("0123456789")
