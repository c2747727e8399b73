"""The named data sets, and the schemes: kinds of sources that are named by an address, such as `list:FILE`.

A new named set is a function that returns arrays or a source, and a line in `NAMED`. A new kind of source is a function
that opens an address, and a line in `SCHEMES`.
"""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.protocol import Source

Split: TypeAlias = Literal["train", "test"]
Loaded: TypeAlias = tuple[
    NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]
]  # images [n, H, W, 3], labels [n], names

# Name → a function of the split, or where it is.
NAMED: dict[str, str | Callable[[Split], Loaded | Source]] = {
    "cifar10": "adco.data.sources.archives:cifar10",
    "fashion-mnist": "adco.data.sources.archives:fashion_mnist",
    "digits": "adco.data.sources.digits:digits",
    "cifar100": "adco.data.sources.torchvision_sets:cifar100",
    "stl10": "adco.data.sources.torchvision_sets:stl10",
    "imagenette": "adco.data.sources.torchvision_sets:imagenette",
    "eurosat": "adco.data.sources.torchvision_sets:eurosat",
}
# Named set → what is in the data directory once it has been downloaded. Sets that are not listed need no download.
FETCHED = {
    "cifar10": "cifar10.npz",
    "fashion-mnist": "fashion-mnist.npz",
    "cifar100": "cifar-100-python",
    "stl10": "stl10_binary",
    "imagenette": "imagenette2-320",
    "eurosat": "eurosat/2750",
}

# Scheme → a function that returns a split of an address, None if there is no such split; or where the function is.
Opener: TypeAlias = Callable[[str, Split], Source | None]
SCHEMES: dict[str, str | Opener] = {
    "list": "adco.data.sources.listed:open_list",
    "wds": "adco.data.sources.shards:open_shards",
    "hf": "adco.data.sources.hub:open_hf",
    "python": "adco.data.sources.objects:open_object",
}


def load_named(name: str, split: Split) -> Loaded | Source:
    """Return a split of a named data set.

    Raises:
        InputError: if the set cannot be fetched.
    """
    found = NAMED[name]
    load: Callable[[Split], Loaded | Source] = resolve_name(found) if isinstance(found, str) else found
    return load(split)


def open_address(data: str, split: Split) -> Source | None:
    """Return a split of the images at an address, such as `list:FILE`; None if there is no such split.

    Raises:
        InputError: if it cannot be opened.
    """
    scheme, _, address = data.partition(":")
    found = SCHEMES[scheme]
    opener: Opener = resolve_name(found) if isinstance(found, str) else found
    return opener(address, split)
