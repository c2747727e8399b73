"""Which images each adversary stands next to, at some moments of a run: adversaries/STEP.npz in the run directory.

Shapes: K adversaries, s images of a sample of the training images, T of them kept for each adversary.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.files import replacing
from adco.untrusted import read_npz, reading


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
        with reading(path, advice="delete it"):
            found = read_npz(path, ("nearest", "used"))
            nearest, used = (found[name].astype(np.int64, casting="same_kind") for name in ("nearest", "used"))
            if nearest.ndim != 2 or used.shape != (len(nearest),) or min(nearest.min(), used.min()) < 0:
                raise ValueError(f"nearest {list(nearest.shape)} and used {list(used.shape)} do not belong together")
            moments.append(NearestImages(int(path.stem), nearest, used))
    return moments
