"""What is done to one image: a random crop and random colours for training, a centre crop for testing.

Every random number of a view is drawn from (seed, epoch, image, view), see `draws.py`. The parameters of a whole batch
are drawn at once; `pixels.py` does the rest.

Shapes: B images of a batch, S the view's size in pixels, H and W an image's height and width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adco.data.draws import uniform
from adco.data.pixels import render_images
from adco.data.sources import Images, Pixels

_ORDERS = np.array(list(permutations(range(4))))  # the 24 orders of brightness, contrast, saturation, hue


@dataclass(frozen=True, kw_only=True)
class View:
    """The distribution of one view. Defaults are MoCo v2's, which AdCo published with (224 px, both views alike)."""

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)  # share of the image's area
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # share of the colour circle, each way
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    flip_probability: float = 0.5


@dataclass(frozen=True)
class Draws:
    """The drawn parameters of one view of B images."""

    boxes: NDArray[np.int64]  # [B, 4] top, left, height, width in pixels
    flip: NDArray[np.bool_]  # [B]
    jitter: NDArray[np.bool_]  # [B]
    order: NDArray[np.int64]  # [B, 4] which of brightness, contrast, saturation, hue comes first to last
    factors: NDArray[np.float64]  # [B, 4] of the same four
    grayscale: NDArray[np.bool_]  # [B]
    sigma: NDArray[np.float64]  # [B] of the blur in pixels, 0 for none


def draw(
    view: View, sizes: NDArray[np.int64], seed: int, epoch: NDArray[np.int64], image: NDArray[np.int64], number: int
) -> Draws:
    """Draw the parameters of view `number` of each image.

    Args:
        view: the distribution.
        sizes: [B, 2] heights and widths in pixels.
        seed: the run's seed.
        epoch: [B] the epoch each image is seen in.
        image: [B] the image's number in its source.
        number: which of the image's views this is.
    """
    u = uniform(seed, epoch, image, number, draws=32)
    strengths = np.array([view.brightness, view.contrast, view.saturation, view.hue])
    unchanged = np.array([1.0, 1.0, 1.0, 0.0])  # factors that leave an image as it is
    low, high = view.blur_sigma
    return Draws(
        boxes=_crop_boxes(sizes, view.scale, u[:, :22]),
        flip=u[:, 22] < view.flip_probability,
        jitter=u[:, 23] < view.jitter_probability,
        order=_ORDERS[(u[:, 24] * len(_ORDERS)).astype(np.int64)],
        factors=unchanged + (2 * u[:, 25:29] - 1) * strengths,
        grayscale=u[:, 29] < view.grayscale_probability,
        sigma=np.where(u[:, 30] < view.blur_probability, low + u[:, 31] * (high - low), 0.0),
    )


def _crop_boxes(sizes: NDArray[np.int64], scale: tuple[float, float], u: NDArray[np.float64]) -> NDArray[np.int64]:
    """Boxes of RandomResizedCrop (Szegedy et al. 2015, aspect 3/4 to 4/3): ten tries, then the largest centre crop."""
    height, width = sizes[:, :1], sizes[:, 1:]
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, :10])
    aspect = np.exp(np.log(3 / 4) + np.log(16 / 9) * u[:, 10:20])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))  # [B, 10]
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(1)[:, None]
    ratio = width / height
    fallback_w = np.where(ratio > 4 / 3, np.rint(height * 4 / 3), width)
    fallback_h = np.where(ratio < 3 / 4, np.rint(width / (3 / 4)), height)
    found = fits.any(1, keepdims=True)
    w = np.where(found, np.take_along_axis(w, first, 1), fallback_w)
    h = np.where(found, np.take_along_axis(h, first, 1), fallback_h)
    top = np.where(found, np.floor(u[:, 20:21] * (height - h + 1)), (height - h) // 2)
    left = np.where(found, np.floor(u[:, 21:22] * (width - w + 1)), (width - w) // 2)
    return np.concatenate([top, left, h, w], 1).astype(np.int64)


def render(images: Images, views: Sequence[View], draws: Sequence[Draws]) -> list[Tensor]:
    """Make views of each image, one view for each of the draws: uint8 [B, 3, S, S] each.

    Photographs are taken one by one, and none is kept.
    """
    count = len(draws[0].flip)
    made = [np.empty((count, 3, view.size, view.size), np.uint8) for view in views]
    orders = [np.where(drawn.jitter[:, None], drawn.order, -1) for drawn in draws]
    if isinstance(images, np.ndarray):
        parts: Iterable[tuple[slice, Pixels]] = [(slice(None), images)]
    else:
        parts = ((slice(i, i + 1), photograph[None]) for i, photograph in enumerate(images))
    for part, pixels in parts:
        for drawn, order, out in zip(draws, orders, made, strict=True):
            render_images(
                pixels,
                drawn.boxes[part],
                drawn.flip[part],
                order[part],
                drawn.factors[part],
                drawn.grayscale[part],
                drawn.sigma[part],
                out[part],
            )
    return [torch.from_numpy(out) for out in made]


def views_of(
    images: Images,
    sizes: NDArray[np.int64],
    views: Sequence[View],
    seed: int,
    epoch: NDArray[np.int64],
    image: NDArray[np.int64],
) -> list[Tensor]:
    """All views of a batch of images, each uint8 [B, 3, S, S].

    Args:
        images: what `Source.load` gives.
        sizes: [B, 2] their heights and widths in pixels.
        views: the distribution of each view.
        seed, epoch, image: as of `draw`.
    """
    return render(images, views, [draw(view, sizes, seed, epoch, image, n) for n, view in enumerate(views)])


def test_view(images: Images, size: int) -> Tensor:
    """What is done to an image at test time: uint8 [B, 3, S, S].

    Images of the size asked for stay as they are. Others: the shorter side is resized to S · 256 / 224 (Resize 256,
    CenterCrop 224 in the ImageNet protocol), then the centre is cropped.
    """
    if isinstance(images, np.ndarray) and images.shape[1:3] == (size, size):
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return torch.stack([_centre(Image.fromarray(image), size) for image in images])


def _centre(image: Image.Image, size: int) -> Tensor:
    if image.size != (size, size):
        side = min(image.size) * 224 / 256  # of the square that becomes the view, in the image's pixels
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def normalize(views: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format) -> Tensor:
    """From uint8 [B, 3, S, S] to (views / 255 − mean) / std, of a new tensor.

    Args:
        views: of 0 to 255.
        mean, std: [3], of red, green and blue in [0, 1], on the device of the views; their dtype is the result's.
        memory_format: of the result. Changed last: arithmetic over channels alone is slow where they lie innermost.
    """
    mean, std = (255 * of_channels[:, None, None] for of_channels in (mean, std))
    return views.to(mean.dtype).sub_(mean).div_(std).to(memory_format=memory_format)
