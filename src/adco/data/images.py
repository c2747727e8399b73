"""The types of images. B is a number of images, C of channels; H and W are height and width in pixels."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # [..., H, W, C]; with three channels RGB
Images = Pixels | Iterable[Pixels]  # [B, H, W, C], or B images [H, W, C] of different sizes
