"""Which images each adversary stands next to, at some moments of a run: adversaries/STEP.npz in the run directory.

Shapes: K adversaries, s images of a sample of the training images, T of them kept for each adversary.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.errors import InputError
from adco.files import DAMAGED_NPZ, replacing


@dataclass(frozen=True, eq=False)
class NearestImages:
    """The images nearest to each adversary after a step.

    Args:
        step: of the run.
        nearest: [K, T], the training images of the sample that are nearest to each adversary, the nearest first.
        used: [K], for how many images of the sample this is the nearest adversary.
    """

    step: int
    nearest: NDArray[np.int64]
    used: NDArray[np.int64]


def write_nearest(folder: Path, found: NearestImages) -> None:
    """Write a moment's images to its file."""
    with replacing(folder / f"{found.step:08}.npz") as file:
        np.savez_compressed(file, nearest=found.nearest.astype(np.uint32), used=found.used.astype(np.uint32))


def read_nearest(folder: Path) -> list[NearestImages]:
    """Return the images of all moments, in order; an empty list if there are none.

    Raises:
        InputError: a file is damaged.
    """
    moments = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                nearest, used = file["nearest"].astype(np.int64), file["used"].astype(np.int64)
                moments.append(NearestImages(int(path.stem), nearest, used))
        except DAMAGED_NPZ as error:
            raise InputError(f"{path} is damaged: {error}") from error
    return moments
