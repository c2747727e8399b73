"""What is done to one image: a random crop and random colours for training, a centre crop for testing.

Every random number of a view is drawn from (seed, epoch, image, view), see `draws.py`. The parameters of a whole batch
are drawn at once, and the operations run on whole batches of tensors, so that small images cost no Python each.

Shapes: B images of a batch, S the view's size in pixels, H and W an image's height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adco.data.draws import uniform
from adco.data.sources import Images

_ORDERS = np.array(list(permutations(range(4))))  # the 24 orders of brightness, contrast, saturation, hue
_CHUNK_PIXELS = 1 << 16  # a chunk of float32 RGB this large stays in a core's L2 cache through all operations


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
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    low, high = view.blur_sigma
    return Draws(
        boxes=_crop_boxes(sizes, view.scale, u[:, :22]),
        flip=u[:, 22] < view.flip_probability,
        jitter=u[:, 23] < view.jitter_probability,
        order=_ORDERS[(u[:, 24] * len(_ORDERS)).astype(np.int64)],
        factors=centre + (2 * u[:, 25:29] - 1) * strengths,
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


def render(images: Images, view: View, draws: Draws) -> Tensor:
    """Make one view of each image: uint8 [B, 3, S, S].

    Runs on one thread, whatever torch is set to: the sums behind a pixel then round the same way in every process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        views = torch.empty(len(images), 3, view.size, view.size, dtype=torch.uint8)
        chunk = max(1, _CHUNK_PIXELS // view.size**2)
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            x = crop_and_resize(images[part], draws.boxes[part], draws.flip[part], view.size)
            _change_colours(x, draws, part)
            _blur(x, draws.sigma[part], view.blur_sigma[1])
            views[part] = x.mul_(255).round_().to(torch.uint8)
        return views
    finally:
        torch.set_num_threads(threads)


def crop_and_resize(images: Images, boxes: NDArray[np.int64], flip: NDArray[np.bool_], size: int) -> Tensor:
    """Crop each box, resize it to size × size (bilinear with antialiasing, as Pillow does) and flip it where asked.

    Returns:
        float32 [B, 3, S, S] in [0, 1].
    """
    if isinstance(images, np.ndarray):  # small images of one size: two products of small matrices for the whole batch
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)  # [B, 3, H, W]
        rows = _resize_weights(boxes[:, 0], boxes[:, 2], images.shape[1], size)  # [B, S, H]
        columns = _resize_weights(boxes[:, 1], boxes[:, 3], images.shape[2], size)  # [B, S, W]
        columns = torch.where(torch.from_numpy(flip)[:, None, None], columns.flip(1), columns)
        x = (x.flatten(1, 2) @ columns.mT).view(len(x), 3, -1, size)  # [B, 3, H, S]
        return torch.matmul(rows[:, None], x)  # [B, 3, S, S]
    views = np.empty((len(images), size, size, 3), np.uint8)
    for out, image, (top, left, height, width), mirrored in zip(views, images, boxes, flip, strict=True):
        crop = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
        out[:] = np.asarray(crop)[:, ::-1] if mirrored else np.asarray(crop)
    return torch.from_numpy(views).permute(0, 3, 1, 2).float().div_(255).contiguous()


def _resize_weights(start: NDArray[np.int64], length: NDArray[np.int64], pixels: int, size: int) -> Tensor:
    """Matrices [B, S, pixels] that resample `length` pixels from `start` on to S, by a triangle as wide as the step."""
    first, last = torch.from_numpy(start)[:, None, None], torch.from_numpy(start + length)[:, None, None]
    step = (last - first).float() / size
    centre = first + (torch.arange(size).float()[:, None] + 0.5) * step  # [B, S, 1]
    pixel = torch.arange(pixels)  # [pixels]
    weights = (1 - (pixel.float() + 0.5 - centre).abs_().div_(step.clamp(min=1))).clamp_(min=0)
    weights *= (first <= pixel) & (pixel < last)
    return weights / weights.sum(2, keepdim=True)


def _change_colours(x: Tensor, draws: Draws, part: slice) -> None:
    """Jitter in each image's own order, then grey: in place on x [B, 3, S, S]."""
    order = np.where(draws.jitter[part, None], draws.order[part], -1)
    factors = torch.from_numpy(draws.factors[part]).to(x.dtype)
    for place in range(4):
        for number, operation in enumerate(_JITTER):
            chosen = torch.from_numpy(np.flatnonzero(order[:, place] == number))
            if len(chosen):
                x[chosen] = operation(x[chosen], factors[chosen, number, None, None, None])
    chosen = torch.from_numpy(np.flatnonzero(draws.grayscale[part]))
    x[chosen] = _luma(x[chosen]).expand(-1, 3, -1, -1)


def _luma(x: Tensor) -> Tensor:
    """Grey by ITU-R 601, as in Pillow and torchvision: [B, 3, S, S] → [B, 1, S, S]."""
    grey = x[:, :1] * 0.299
    return grey.add_(x[:, 1:2], alpha=0.587).add_(x[:, 2:], alpha=0.114)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(factor).clamp_(max=1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = _luma(x).mean((2, 3), keepdim=True)
    return x.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    grey = _luma(x)
    return x.mul_(factor).add_(grey * (1 - factor)).clamp_(0, 1)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` of the circle, keeping HSV's value and saturation."""
    red, green, blue = x.unbind(1)
    high, low = x.amax(1), x.amin(1)
    chroma = high - low
    safe = chroma.clamp(min=1e-8)
    hue = torch.where(  # in sixths of the circle, red at 0
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue += 6 * shift[:, 0]
    for channel, offset in enumerate((5, 3, 1)):  # high − chroma · clamp(min(k, 4 − k), 0, 1), k = (offset + hue) mod 6
        k = (hue + offset).remainder_(6)
        x[:, channel] = high - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
    return x


_JITTER = (_brightness, _contrast, _saturation, _hue)


def _blur(x: Tensor, sigma: NDArray[np.float64], largest: float) -> None:
    """Gaussian blur with mirrored borders, in place on x [B, 3, S, S]; sigma 0 leaves an image as it is.

    The kernel reaches three times the largest sigma there can be, not that there is: what else is in the batch must
    not matter.
    """
    chosen = np.flatnonzero(sigma)
    if len(chosen) == 0:
        return
    size = x.shape[2]
    pixel = np.arange(size)
    reach = min(int(np.ceil(3 * largest)), size - 1)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma[chosen, None]) ** 2)  # [b, 2 reach + 1]
    kernel /= kernel.sum(1, keepdims=True)
    source = np.abs(pixel[:, None] + offsets)  # [S, 2 reach + 1]
    source = np.where(source >= size, 2 * (size - 1) - source, source)
    matrix = np.zeros((len(chosen), size, size), np.float32)
    image, row = np.arange(len(chosen))[:, None, None], pixel[:, None]
    np.add.at(matrix, (image, row, source), kernel[:, None, :])
    weights = torch.from_numpy(matrix)[:, None]  # [b, 1, S, S]
    index = torch.from_numpy(chosen)
    x[index] = weights @ x[index] @ weights.mT


def test_view(images: Images, size: int) -> Tensor:
    """What is done to an image at test time: uint8 [B, 3, S, S].

    Images of the size asked for stay as they are. Others: the shorter side is resized to S · 256 / 224 (Resize 256,
    CenterCrop 224 in the ImageNet protocol), then the centre is cropped.
    """
    if isinstance(images, np.ndarray):
        if images.shape[1:3] == (size, size):
            return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        images = [Image.fromarray(image) for image in images]
    return torch.stack([_centre(image, size) for image in images])


def _centre(image: Image.Image, size: int) -> Tensor:
    if image.size == (size, size):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    side = min(image.size) * 224 / 256  # of the square that becomes the view, in the image's pixels
    left, top = (image.width - side) / 2, (image.height - side) / 2
    view = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)


def image_sizes(images: Images) -> NDArray[np.int64]:
    """[B, 2] heights and widths in pixels."""
    if isinstance(images, np.ndarray):
        return np.broadcast_to(np.array(images.shape[1:3], np.int64), (len(images), 2))
    return np.array([(image.height, image.width) for image in images], np.int64)


def views_of(
    images: Images, views: Sequence[View], seed: int, epoch: NDArray[np.int64], image: NDArray[np.int64]
) -> list[Tensor]:
    """All views of a batch of images, each uint8 [B, 3, S, S]."""
    sizes = image_sizes(images)
    return [render(images, view, draw(view, sizes, seed, epoch, image, number)) for number, view in enumerate(views)]
