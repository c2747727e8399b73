"""A batch of views, as the loader makes it and a method takes it.

Shapes: n images of a rank, C channels, S side of a view in pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """The views of a rank's share of a batch."""

    views: list[Tensor]  # each uint8, or float in [0, 1], [n, C, S, S]
    indices: Tensor  # [n] int64, of the images in their source; of a replaced image, those of the one in its place
    position: int  # number of batches since the start of the run


def normalize(views: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Compute (views / 255 − mean) / std of uint8 views [B, C, S, S], as a new tensor; of floats (views − mean) / std.

    Args:
        views: integers in 0 to 255, or floats in 0 to 1.
        mean, std: [C], of each channel in [0, 1], on the device of the views; the result has their dtype.
        memory_format: of the result. It is set last: arithmetic on channels is slow where they are the innermost axis.
    """
    white = 1 if views.is_floating_point() else 255
    mean, std = (white * of_channels[:, None, None] for of_channels in (mean, std))
    return views.to(mean.dtype, copy=True).sub_(mean).div_(std).to(memory_format=memory_format)
