"""Views of images: random crops with colour jitter for training, a centre crop for testing.

The random numbers of a view are functions of (seed, epoch, image, number of the view); see `draws.py`. The parameters
are drawn here; `pixels.py` applies them to the pixels. Only the box of the crop depends on the size of an image, so it
is computed when the image has been read.

Shapes: B images of C channels in the batch; S the side of a view, H and W the height and width of an image, in pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adco.data.augment import Augment, augmented
from adco.data.draws import uniform
from adco.data.images import Images, Pixels
from adco.data.pixels import render_images

_ORDERS = np.array(list(permutations(range(4))))  # [24, 4], all orders of brightness, contrast, saturation, hue


@dataclass(frozen=True, kw_only=True)
class View:
    """The augmentation of one view: the distribution that its parameters are drawn from.

    The defaults are those of MoCo v2, which AdCo's paper also uses: 224 px, the same distribution for both views.
    """

    size: int = 224  # side in pixels
    channels: int = 3  # of the images; saturation, hue and conversion to grey are left out unless there are three
    scale: tuple[float, float] = (0.2, 1.0)  # smallest and largest area of the crop, as a share of the image
    brightness: float = 0.4  # factor from 1 − 0.4 to 1 + 0.4; likewise contrast and saturation
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # largest shift in either direction, as a share of the colour circle
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # smallest and largest standard deviation of the blur, in pixels
    flip_probability: float = 0.5
    augment: Augment | None = None  # a function of the user that makes the view, in place of everything but the size


@dataclass(frozen=True)
class Draws:
    """The drawn parameters of one view of B images."""

    crop: NDArray[np.float64]  # [B, 22], ten areas as shares of the image, ten aspect ratios, two numbers for the place
    flip: NDArray[np.bool_]  # [B]
    jitter: NDArray[np.bool_]  # [B]
    order: NDArray[np.int64]  # [B, 4], operations first to last: 0 brightness, 1 contrast, 2 saturation, 3 hue, −1 none
    factors: NDArray[np.float64]  # [B, 4], factors of brightness, contrast and saturation; shift of the hue
    grayscale: NDArray[np.bool_]  # [B]
    sigma: NDArray[np.float64]  # [B], standard deviation of the blur in pixels; 0 for no blur


def draw(view: View, seed: int, epoch: NDArray[np.int64], image: NDArray[np.int64], number: int) -> Draws:
    """Draw the parameters of one view of each image.

    Args:
        view: the distribution to draw from.
        seed: the seed of the run.
        epoch: [B], the epoch in which each image is used.
        image: [B], the index of each image in its source.
        number: number of the view: 0, 1, …
    """
    u = uniform(seed, epoch, image, number, draws=32)
    strengths = np.array([view.brightness, view.contrast, view.saturation, view.hue])
    unchanged = np.array([1.0, 1.0, 1.0, 0.0])  # values that leave an image unchanged
    low, high = view.blur_sigma
    shares = view.scale[0] + (view.scale[1] - view.scale[0]) * u[:, :10]
    aspects = np.exp(np.log(3 / 4) + np.log(16 / 9) * u[:, 10:20])
    orders = _ORDERS if view.channels == 3 else np.where(_ORDERS > 1, -1, _ORDERS)
    return Draws(
        crop=np.concatenate([shares, aspects, u[:, 20:22]], 1),
        flip=u[:, 22] < view.flip_probability,
        jitter=u[:, 23] < view.jitter_probability,
        order=orders[(u[:, 24] * len(orders)).astype(np.int64)],
        factors=unchanged + (2 * u[:, 25:29] - 1) * strengths,
        grayscale=u[:, 29] < (view.grayscale_probability if view.channels == 3 else 0.0),
        sigma=np.where(u[:, 30] < view.blur_probability, low + u[:, 31] * (high - low), 0.0),
    )


def render(images: Images, views: Sequence[View], draws: Sequence[Draws]) -> list[Tensor]:
    """Apply drawn parameters to a batch of images. Return one tensor per view, uint8 [B, C, S, S].

    Images from an iterator are processed one by one, and none is kept in memory.
    """
    count = len(draws[0].flip)
    outputs = [np.empty((count, view.channels, view.size, view.size), np.uint8) for view in views]
    orders = [np.where(drawn.jitter[:, None], drawn.order, -1) for drawn in draws]
    if isinstance(images, np.ndarray):
        parts: Iterable[tuple[slice, Pixels]] = [(slice(None), images)]
    else:
        parts = ((slice(i, i + 1), image[None]) for i, image in enumerate(images))
    for part, pixels in parts:
        for drawn, order, out in zip(draws, orders, outputs, strict=True):
            render_images(
                pixels,
                drawn.crop[part],
                drawn.flip[part],
                order[part],
                drawn.factors[part],
                drawn.grayscale[part],
                drawn.sigma[part],
                out[part],
            )
    return [torch.from_numpy(out) for out in outputs]


def views_of(
    images: Images, views: Sequence[View], seed: int, epoch: NDArray[np.int64], image: NDArray[np.int64]
) -> list[Tensor]:
    """Return all views of a batch of images, each uint8 [B, C, S, S].

    Args:
        images: the images, as returned by a source's `load`.
        views: the augmentation of each view.
        seed, epoch, image: as in `draw`.

    Raises:
        InputError: a view's own function does not return a view.
    """
    if any(view.augment for view in views):
        return _own_views(images, views, seed, epoch, image)
    return render(images, views, [draw(view, seed, epoch, image, n) for n, view in enumerate(views)])


def _own_views(
    images: Images, views: Sequence[View], seed: int, epoch: NDArray[np.int64], image: NDArray[np.int64]
) -> list[Tensor]:
    made: list[list[Tensor]] = [[] for _ in views]
    for pixels, *key in zip(images, epoch.tolist(), image.tolist(), strict=True):
        for number, view in enumerate(views):
            assert view.augment is not None  # all views of a run are made in one way
            shape = (view.channels, view.size, view.size)
            made[number].append(augmented(view.augment, pixels, shape, (seed, *key, number)))
    return [torch.stack(of_view) for of_view in made]


def test_view(images: Images, size: int) -> Tensor:
    """Return the centre crop of each image that is used at test time, uint8 [B, C, S, S].

    Images that already have the requested size are returned unchanged. For others, the shorter side is resized to
    S · 256 / 224 and the centre is cropped, as the ImageNet protocol does (Resize 256, CenterCrop 224).
    """
    if isinstance(images, np.ndarray) and images.shape[1:3] == (size, size):
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    centres = [torch.from_numpy(_centre(image, size)).permute(2, 0, 1) for image in images]
    return torch.stack(centres) if centres else torch.empty(0, 3, size, size, dtype=torch.uint8)


def _centre(pixels: Pixels, size: int) -> Pixels:
    """Return the centre crop of one image, [H, W, C] → [S, S, C]."""
    if pixels.shape[2] != 3:  # Pillow has no images of any number of channels
        return np.stack(
            [np.asarray(_centre_of(Image.fromarray(plane), size)) for plane in np.moveaxis(pixels, 2, 0)], 2
        )
    return np.array(_centre_of(Image.fromarray(pixels), size))


def _centre_of(image: Image.Image, size: int) -> Image.Image:
    if image.size != (size, size):
        side = min(image.size) * 224 / 256  # side of the square crop, in pixels of the image
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return image
