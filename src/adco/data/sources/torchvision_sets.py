"""CIFAR-100, STL-10, Imagenette and EuroSAT, which torchvision downloads into the data directory and verifies."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adco.data.sources.arrays import ArraySource
from adco.data.sources.joined import join
from adco.data.sources.open import open_source
from adco.data.sources.protocol import Source
from adco.data.sources.registry import Loaded, Split
from adco.data.sources.splits import hold_out
from adco.errors import InputError
from adco.files import data_directory

IMAGENETTE = "imagenette2-320"  # torchvision's name of the folder


def cifar100(split: Split) -> Loaded:
    """Return a split of CIFAR-100 with its 100 fine classes: images [n, 32, 32, 3], labels [n], class names.

    Raises:
        InputError: the set is not in the data directory and cannot be downloaded.
    """
    from torchvision.datasets import CIFAR100  # type: ignore[import-untyped]

    found = _downloaded("cifar100", CIFAR100.filename, lambda root: CIFAR100(root, split == "train", download=True))
    return found.data, np.array(found.targets, np.int64), tuple(found.classes)


def stl10(split: Split) -> Source:
    """Return a split of STL-10, images of 96 px. The training split has the unlabelled images, too, after the labelled.

    The images stay in torchvision's files, of which a part is read when it is needed: they are 3 GB.

    Raises:
        InputError: the set is not in the data directory and cannot be downloaded.
    """
    from torchvision.datasets import STL10

    found = _downloaded("stl10", STL10.filename, lambda root: STL10(root, "test", download=True))
    folder, names = Path(found.root) / STL10.base_folder, tuple(found.classes)

    def part(which: str) -> ArraySource:
        stored = np.memmap(folder / f"{which}_X.bin", np.uint8, "r").reshape(-1, 3, 96, 96)  # columns before rows
        path = folder / f"{which}_y.bin"
        labels = np.fromfile(path, np.uint8).astype(np.int64) - 1 if path.is_file() else np.full(len(stored), -1)
        return ArraySource("stl10", stored.transpose(0, 3, 2, 1), labels, names)

    return part("test") if split == "test" else join([part("train"), part("unlabeled")])


def imagenette(split: Split) -> Source:
    """Return a split of Imagenette, ten classes of ImageNet at 320 px.

    Raises:
        InputError: the set is not in the data directory and cannot be downloaded.
    """
    from torchvision.datasets import Imagenette

    _downloaded("imagenette", f"{IMAGENETTE}.tgz", lambda root: Imagenette(root, size="320px", download=True))
    return open_source(data_directory() / IMAGENETTE, split)


def eurosat(split: Split) -> Source:
    """Return a split of EuroSAT, satellite images of 64 px. It has no official test split: a fifth is held out.

    Raises:
        InputError: the set is not in the data directory and cannot be downloaded.
    """
    from torchvision.datasets import EuroSAT

    _downloaded("eurosat", "eurosat/EuroSAT.zip", lambda root: EuroSAT(root, download=True))
    source = open_source(data_directory() / "eurosat" / "2750")
    assert source.labels is not None
    kept, held_out = hold_out(source.labels)
    return source.subset(held_out if split == "test" else kept)


def _downloaded(name: str, archive: str, opened: Callable[[Path], Any]) -> Any:
    """Return torchvision's data set, downloaded into the data directory if it is not there.

    Args:
        name: of the set.
        archive: file that the user can put into the data directory if it cannot be downloaded.
        opened: returns the data set in a folder, downloaded if necessary.
    """
    root = data_directory()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            return opened(root)
    except (OSError, RuntimeError, EOFError) as error:  # no network, a wrong checksum, a full disk
        why = " ".join(str(error).split())
        raise InputError(f"{name} is not available here ({why}): put {archive} into {root}") from error
