"""The types of images. B is a number of images; H and W are height and width in pixels."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # [..., H, W, 3] RGB
Images = Pixels | Iterable[Pixels]  # [B, H, W, 3], or B images [H, W, 3] of different sizes
