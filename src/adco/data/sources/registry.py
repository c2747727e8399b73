"""The named data sets. A new one is a function that returns arrays, and a line in `NAMED`."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Split: TypeAlias = Literal["train", "test"]
Loaded: TypeAlias = tuple[
    NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]
]  # images [n, H, W, 3], labels [n], names

# Name → a function of the split, or where it is.
NAMED: dict[str, str | Callable[[Split], Loaded]] = {
    "cifar10": "adco.data.sources.archives:cifar10",
    "fashion-mnist": "adco.data.sources.archives:fashion_mnist",
    "digits": "adco.data.sources.digits:digits",
}


def load_named(name: str, split: Split) -> Loaded:
    """Return a split of a named data set.

    Raises:
        InputError: if the set cannot be fetched.
    """
    found = NAMED[name]
    load: Callable[[Split], Loaded] = resolve_name(found) if isinstance(found, str) else found
    return load(split)
