"""Views by a function of the user, such as a pipeline of torchvision's or another library's transforms.

Before each call, the global generators of Python, NumPy and torch are seeded by (seed, epoch, image, view). After it,
they are as they were. The views are therefore the same for any number of workers and after a restart, as the package's
own are.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from adco.data.draws import uniform
from adco.data.images import Pixels
from adco.errors import InputError

# An image, uint8 [H, W, C] → a view [C, S, S], uint8 or float in [0, 1].
Augment: TypeAlias = Callable[[Pixels], Tensor]
OVERSHOOT = 0.5  # by which a view may leave [0, 1]


def name_of(augment: Augment | None) -> str | None:
    """Return the name of the user's function, or of its class; None if there is none."""
    return None if augment is None else str(getattr(augment, "__name__", type(augment).__name__))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generators by a key for the block, and restore them afterwards."""
    seed = int(uniform(*key, draws=1)[0] * 2**32)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (other libraries use it)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed GPUs, in every worker
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def augmented(augment: Augment, image: Pixels, shape: tuple[int, int, int], key: tuple[int, ...]) -> Tensor:
    """Return one view of an image.

    Args:
        augment: the user's function.
        image: [H, W, C]; the function gets a copy that it may change.
        shape: that the view must have, [C, S, S].
        key: seed, epoch, image, view.

    Raises:
        InputError: the function returns something else.
    """
    with seeded(*key):
        view: Any = augment(image.copy())
    fits = isinstance(view, Tensor) and view.shape == shape
    if not fits or not (view.dtype == torch.uint8 or view.is_floating_point()):
        found = f"{view.dtype} {list(view.shape)}" if isinstance(view, Tensor) else f"a {type(view).__name__}"
        raise InputError(
            f"augment returns {found}: it must be a tensor {list(shape)} (image_size is {shape[1]}), of uint8 or of "
            "floats in [0, 1]"
        )
    tensor: Tensor = view
    if tensor.is_floating_point():
        _check_range(tensor)
    return tensor


def _check_range(view: Tensor) -> None:
    """Raise InputError for floats far from [0, 1]; a resampling filter may exceed it a little."""
    low, high = (float(value) for value in view.aminmax())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # also if they are NaN
        raise InputError(
            f"augment returns floats from {low:.3g} to {high:.3g}: they must be in [0, 1], so leave out the "
            "normalization, and divide by 255 what was uint8"
        )
