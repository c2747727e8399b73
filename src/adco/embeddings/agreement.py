"""Agreement of two images: the correlation of their details where they overlap best.

An encoder maps different images of one kind of thing to near embeddings; that is what it is for. Its nearest neighbours
are only candidates for duplicates, and the pixels decide: one image is laid over each of `BOXES` of the other, as it is
and mirrored, and what is compared are grey values without their average over some pixels. The largest correlation is
the agreement: 1 for equal images, whatever their brightness and contrast.

Shapes: n images, P pairs, B boxes, S = 32 side of a thumbnail, D = 16 side of what is compared, in pixels.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.nn import functional as F

from adco.data.images import Pixels
from adco.data.sources.protocol import Source

SIDE = 32  # px, of a thumbnail
COMPARED = 16  # px, side of what is compared
STARTS = {32: [0], 30: [0, 1, 2], 28: [0, 2, 4], 26: [0, 3, 6]}  # px; lengths of spans, and where they start
SPANS = [(start, start + length) for length, starts in STARTS.items() for start in starts]
BOXES = list(product(SPANS, SPANS))  # [100], rows and columns: the whole image, and crops of at least 66 % of its area
AVERAGED = 5  # px, side of the square whose average is taken away
FLAT = 0.005  # norm of the details of an image, of pixels in 0..1, below which they are rather noise
CHUNK = 256  # pairs compared at once; 26 MB

Thumbnails = NDArray[np.uint8]  # [n, S, S], grey


def thumbnails_of(source: Source) -> Thumbnails:
    """Return a small grey version of each image of a source.

    Raises:
        InputError: an image cannot be read.
    """
    found = np.empty((len(source), SIDE, SIDE), np.uint8)

    def read(indices: NDArray[np.int64]) -> None:
        for index, pixels in zip(indices.tolist(), source.load(indices), strict=True):
            found[index] = thumbnail(pixels)

    parts = np.array_split(np.arange(len(source)), -(-len(source) // 64))
    console = Console(stderr=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        done = pool.map(read, parts)
        for _ in track(
            done, "thumbnails", len(parts), console=console, transient=True, disable=not console.is_terminal
        ):
            pass
    return found


def thumbnail(pixels: Pixels) -> Thumbnails:
    """Return a small grey version of an image, [H, W, C] → [S, S]. Its aspect ratio is lost."""
    if pixels.shape[2] == 3:
        grey = Image.fromarray(pixels).convert("L")
    else:
        grey = Image.fromarray(pixels.mean(2).round().astype(np.uint8))
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def agreements(
    ones: Thumbnails, others: Thumbnails, pairs: NDArray[np.int64], device: torch.device | str
) -> NDArray[np.float32]:
    """Return the agreement of each pair, [P], in 0..1.

    Args:
        ones, others: thumbnails.
        pairs: [P, 2], an index into `ones` and one into `others`. Sorted pairs take less time.
        device: where to compute.
    """
    found = np.zeros(len(pairs), np.float32)
    for first, second, column in ((ones, others, 0), (others, ones, 1)):
        order = np.argsort(pairs[:, column], kind="stable")
        for start in range(0, len(order), CHUNK):
            chosen = order[start : start + CHUNK]
            within, whole = pairs[chosen, column], pairs[chosen, 1 - column]
            unique, place = np.unique(within, return_inverse=True)
            boxes = _details(_boxes(_floats(first[unique], device)))[torch.from_numpy(place)]  # [P, B, D²]
            both = _floats(second[whole], device)
            sides = _details(_scaled(torch.stack([both, both.flip(2)], 1)))  # [P, 2, D²]
            largest = torch.bmm(boxes, sides.transpose(1, 2)).amax((1, 2)).cpu().numpy()
            found[chosen] = np.maximum(found[chosen], largest)
    same = (ones[pairs[:, 0]] == others[pairs[:, 1]]).all((1, 2))  # also images without any detail
    return np.where(same, np.float32(1), np.minimum(found, 1))


def _floats(thumbnails: Thumbnails, device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(thumbnails).to(device).float() / 255


def _boxes(images: torch.Tensor) -> torch.Tensor:
    """Cut out each of `BOXES` and scale it, [n, S, S] → [n, B, D, D]."""
    return torch.cat([_scaled(images[:, None, top:bottom, left:right]) for (top, bottom), (left, right) in BOXES], 1)


def _scaled(images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(images, size=(COMPARED, COMPARED), mode="bilinear")


def _details(images: torch.Tensor) -> torch.Tensor:
    """Return what differs from the local average, as vectors of unit norm, [n, B, D, D] → [n, B, D²]."""
    averages = F.avg_pool2d(images, AVERAGED, stride=1, padding=AVERAGED // 2, count_include_pad=False)
    details = (images - averages).flatten(2)
    details = details - details.mean(2, keepdim=True)
    unit: torch.Tensor = details / details.norm(dim=2, keepdim=True).clamp_min(FLAT)
    return unit
