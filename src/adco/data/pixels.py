"""Pixel operations of the augmentation, compiled by Numba: crop and resize, colour jitter, blur.

Images are processed one at a time on one thread, so that each stays in the cache of a core. Of the compiler's fast-math
options only fused multiply-add is enabled, in `mean_grey` reordering of the sum too. The bytes of a view therefore do
not depend on the rest of the batch or on the process. Values are float32 in 0..255, rounded only once, at the end.

Shapes: B images of C channels, H and W their height and width, S the size of a view, all in pixels.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adco.data.images import Pixels

Function = TypeVar("Function", bound=Callable[..., Any])
f32 = np.float32
Planes = NDArray[np.float32]


def compiler(**options: Any) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function, and keeps the result for other processes where it can be written.

    Args:
        options: of Numba.
    """

    def compile_function(function: Function) -> Function:
        try:
            return cast(Function, njit(function, cache=True, nogil=True, error_model="numpy", **options))
        except RuntimeError as error:  # neither the package's folder nor the user's cache can be written
            logging.getLogger("adco").debug(f"{function.__name__} is compiled in each process: {error}")
            return cast(Function, njit(function, nogil=True, error_model="numpy", **options))

    return compile_function


compiled = compiler(fastmath={"contract"})
exact = compiler()  # its rounding decides which of several crops is used
unsigned = np.uintp  # type of array indices; for a signed index, Numba would check each time whether it is negative


@compiled
def render_images(
    images: Pixels,
    crop: NDArray[np.float64],
    flip: NDArray[np.bool_],
    order: NDArray[np.int64],
    factors: NDArray[np.float64],
    grayscale: NDArray[np.bool_],
    sigma: NDArray[np.float64],
    out: Pixels,
) -> None:
    """Write one view of each image to `out` [B, C, S, S].

    Args:
        images: [B, H, W, C].
        crop: [B, 22], the random numbers of each crop; see `crop_box`.
        flip: [B], whether to mirror the image.
        order: [B, 4], the colour operations from first to last: 0 brightness, 1 contrast, 2 saturation, 3 hue, −1 none.
            Saturation and hue are for three channels only.
        factors: [B, 4], the factors of brightness, contrast and saturation, and the shift of the hue.
        grayscale: [B], whether to convert the image to grey; for three channels only.
        sigma: [B], standard deviation of the blur in pixels; 0 for no blur.
        out: [B, C, S, S], overwritten.
    """
    channels, size = out.shape[1], out.shape[2]
    x = np.empty((channels, size, size), np.float32)
    scratch = np.empty((channels, size, size), np.float32)
    for i in range(len(images)):
        box = crop_box(images.shape[1], images.shape[2], crop[i])
        if channels == 3:
            crop_and_resize(images[i], box, flip[i], x)
        else:
            crop_and_resize_channels(images[i], box, flip[i], x)
        planes = x.reshape(channels, size * size)
        for operation in order[i]:
            if operation == 0:
                brightness(planes, f32(factors[i, 0]))
            elif operation == 1:
                contrast(planes, f32(factors[i, 1]), f32(mean_grey(planes) if channels == 3 else mean_value(planes)))
            elif operation == 2:
                saturation(planes, f32(factors[i, 2]))
            elif operation == 3:
                hue(planes, f32(factors[i, 3]))
        if grayscale[i]:
            saturation(planes, f32(0))
        if sigma[i] > 0:
            blur(x, sigma[i], scratch)
        for channel in range(channels):
            for row in range(size):
                for column in range(size):
                    out[i, channel, row, column] = np.uint8(x[channel, row, column] + f32(0.5))


@compiled
def triangle_filter(length: int, size: int) -> tuple[NDArray[np.uintp], Planes]:
    """Compute the weights of a triangle filter that resizes `length` pixels to `size` (S), as Pillow's BILINEAR does.

    Returns:
        For each output pixel, the index of the first of its T input pixels, [S], and their weights, [S, T]. T is the
        same for all output pixels, because the processor runs loops of constant length faster.
    """
    step = length / size
    reach = max(step, 1.0)
    taps = min(math.ceil(2 * reach), length)
    first = np.empty(size, unsigned)
    weights = np.zeros((size, taps), np.float32)
    for s in range(size):
        centre = (s + 0.5) * step
        low = max(0, math.floor(centre - reach + 0.5))
        high = min(length, math.floor(centre + reach + 0.5))
        start = min(low, length - taps)
        total = 0.0
        for t in range(low, high):
            total += 1 - abs(t + 0.5 - centre) / reach
        for t in range(low, high):
            weights[s, t - start] = (1 - abs(t + 0.5 - centre) / reach) / total
        first[s] = unsigned(start)
    return first, weights


@exact
def crop_box(height: int, width: int, crop: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Return a crop's top, left, height and width in pixels, as torchvision's RandomResizedCrop draws them.

    The first of ten random boxes that fits into the image is used. If none fits, the largest centre crop with an aspect
    ratio from 3/4 to 4/3 is used (Szegedy et al. 2015).

    Args:
        height, width: of the image in pixels.
        crop: [22], ten areas as shares of the image, ten aspect ratios, and one random number in [0, 1) each for the
            top and the left edge.
    """
    for attempt in range(10):
        area, aspect = height * width * crop[attempt], crop[10 + attempt]
        w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = np.floor(crop[20] * (height - h + 1)), np.floor(crop[21] * (width - w + 1))
            return int(top), int(left), int(h), int(w)
    ratio = width / height
    w = np.rint(height * 4 / 3) if ratio > 4 / 3 else float(width)
    h = np.rint(width / (3 / 4)) if ratio < 3 / 4 else float(height)
    return int((height - h) // 2), int((width - w) // 2), int(h), int(w)


@compiled
def crop_and_resize(image: Pixels, box: tuple[int, int, int, int], flip: bool, out: Planes) -> None:
    """Resize the box of `image` [H, W, 3] to `out` [3, S, S], vertically, then horizontally; mirror it if `flip`."""
    size = out.shape[1]
    top, left, height, width = box
    first_row, row_weights = triangle_filter(height, size)
    first_column, column_weights = triangle_filter(width, size)
    begin, length = 3 * left, 3 * width
    lines = image.reshape(len(image), 3 * image.shape[1])[top : top + height]
    line = np.empty(length, np.float32)
    for row in range(size):
        pixels, weight = lines[first_row[row], begin : begin + length], row_weights[row, 0]
        for p in range(length):
            line[p] = weight * f32(pixels[p])
        for t in range(1, row_weights.shape[1]):
            pixels, weight = lines[first_row[row] + unsigned(t), begin : begin + length], row_weights[row, t]
            for p in range(length):
                line[p] += weight * f32(pixels[p])
        for s in range(size):
            red = green = blue = f32(0)
            p = unsigned(3) * first_column[s]
            for t in range(column_weights.shape[1]):
                weight = column_weights[s, t]
                red += weight * line[p]
                green += weight * line[p + unsigned(1)]
                blue += weight * line[p + unsigned(2)]
                p += unsigned(3)
            column = size - 1 - s if flip else s
            out[0, row, column], out[1, row, column], out[2, row, column] = red, green, blue


@compiled
def crop_and_resize_channels(image: Pixels, box: tuple[int, int, int, int], flip: bool, out: Planes) -> None:
    """Do the same as `crop_and_resize` for any number of channels, more slowly: [H, W, C] to [C, S, S]."""
    channels, size = out.shape[0], out.shape[1]
    top, left, height, width = box
    first_row, row_weights = triangle_filter(height, size)
    first_column, column_weights = triangle_filter(width, size)
    line = np.empty((width, channels), np.float32)
    for row in range(size):
        line[:] = f32(0)
        for t in range(row_weights.shape[1]):
            weight = row_weights[row, t]
            pixels = image[top + int(first_row[row]) + t]
            for p in range(width):
                for channel in range(channels):
                    line[p, channel] += weight * f32(pixels[left + p, channel])
        for s in range(size):
            column = size - 1 - s if flip else s
            for channel in range(channels):
                total = f32(0)
                for t in range(column_weights.shape[1]):
                    total += column_weights[s, t] * line[int(first_column[s]) + t, channel]
                out[channel, row, column] = total


@compiled
def luma(red: np.float32, green: np.float32, blue: np.float32) -> np.float32:
    """Return the grey value by ITU-R BT.601, as Pillow and torchvision do."""
    return f32(0.299) * red + f32(0.587) * green + f32(0.114) * blue


@compiled
def clamp(x: np.float32) -> np.float32:
    """Limit a value to 0..255."""
    return min(max(x, f32(0)), f32(255))


@compiled
def brightness(x: Planes, factor: np.float32) -> None:
    """Blend x [C, S²] with black, in place."""
    for channel in range(len(x)):
        plane = x[channel]
        for p in range(len(plane)):
            plane[p] = clamp(plane[p] * factor)


@compiler(fastmath={"contract", "reassoc"})  # reassoc vectorises the sum
def mean_grey(x: Planes) -> float:
    """Return the mean grey value of x [3, S²]."""
    red, green, blue = x[0], x[1], x[2]
    total = 0.0
    for p in range(len(red)):
        total += float(luma(red[p], green[p], blue[p]))
    return total / len(red)


@compiled
def mean_value(x: Planes) -> float:
    """Return the mean of all values of x [C, S²]."""
    total = 0.0
    for channel in range(len(x)):
        plane = x[channel]
        for p in range(len(plane)):
            total += float(plane[p])
    return total / x.size


@compiled
def contrast(x: Planes, factor: np.float32, mean: np.float32) -> None:
    """Blend x [C, S²] with its mean, in place."""
    offset = mean * (f32(1) - factor)
    for channel in range(len(x)):
        plane = x[channel]
        for p in range(len(plane)):
            plane[p] = clamp(plane[p] * factor + offset)


@compiled
def saturation(x: Planes, factor: np.float32) -> None:
    """Blend each pixel of x [3, S²] with its grey value, in place."""
    red, green, blue = x[0], x[1], x[2]
    for p in range(len(red)):
        offset = luma(red[p], green[p], blue[p]) * (f32(1) - factor)
        red[p] = clamp(red[p] * factor + offset)
        green[p] = clamp(green[p] * factor + offset)
        blue[p] = clamp(blue[p] * factor + offset)


@compiled
def hue(x: Planes, shift: np.float32) -> None:
    """Shift the hue of x [3, S²] by `shift` of the colour circle, in place. HSV value and saturation do not change."""
    turn = f32(6) * shift
    red, green, blue = x[0], x[1], x[2]
    for p in range(len(red)):
        r, g, b = red[p], green[p], blue[p]
        high = max(r, max(g, b))
        chroma = high - min(r, min(g, b))
        inverse = f32(1) / max(chroma, f32(1e-6))
        at_red, at_green, at_blue = (g - b) * inverse, f32(2) + (b - r) * inverse, f32(4) + (r - g) * inverse
        angle = turn + (at_red if high == r else (at_green if high == g else at_blue))  # in sixths of the circle
        red[p] = high - chroma * hue_offset(angle + f32(5))
        green[p] = high - chroma * hue_offset(angle + f32(3))
        blue[p] = high - chroma * hue_offset(angle + f32(1))


@compiled
def hue_offset(angle: np.float32) -> np.float32:
    """Return how far a channel lies below the highest channel, as a share of the chroma.

    The formula is clamp(min(k, 4 − k), 0, 1), where k is the angle modulo 6.
    """
    k = angle - f32(6) * np.floor(angle * f32(1 / 6))
    return min(max(min(k, f32(4) - k), f32(0)), f32(1))


@compiled
def blur(x: Planes, sigma: float, scratch: Planes) -> None:
    """Blur x [C, S, S] in place by a Gaussian kernel that is cut off at three sigma. Borders are mirrored."""
    size = x.shape[1]
    reach = min(size - 1, math.ceil(3 * sigma))
    kernel = np.empty(reach + 1, np.float32)  # the centre and one side; the kernel is symmetric
    for t in range(reach + 1):
        kernel[t] = math.exp(-0.5 * (t / sigma) ** 2)
    kernel /= 2 * kernel.sum() - kernel[0]
    padded = np.empty(size + 2 * reach, np.float32)
    for channel in range(len(x)):
        for row in range(size):
            target, source = scratch[channel, row], x[channel, row]
            weight = kernel[0]
            for column in range(size):
                target[column] = weight * source[column]
            for t in range(1, reach + 1):
                above, below = x[channel, mirrored(row - t, size)], x[channel, mirrored(row + t, size)]
                weight = kernel[t]
                for column in range(size):
                    target[column] += weight * (above[column] + below[column])
        for row in range(size):
            target, source = x[channel, row], scratch[channel, row]
            for column in range(size):
                padded[reach + column] = source[column]
            for p in range(1, reach + 1):
                padded[reach - p] = source[p]
                padded[reach + size - 1 + p] = source[size - 1 - p]
            weight = kernel[0]
            for column in range(size):
                target[column] = weight * source[column]
            for t in range(1, reach + 1):
                left, right = padded[reach - t : reach - t + size], padded[reach + t : reach + t + size]
                weight = kernel[t]
                for column in range(size):
                    target[column] += weight * (left[column] + right[column])


@compiled
def mirrored(p: int, size: int) -> int:
    """Mirror index p into 0 … size − 1 without repeating the border pixel."""
    p = abs(p)
    return 2 * (size - 1) - p if p >= size else p
