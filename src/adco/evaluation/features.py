"""Features of every image of a source by a frozen backbone, taken once and shared by every evaluation.

n images, B batch, S image side in pixels, F feature width.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from adco.data.sources import Source
from adco.data.views import normalize, test_view

DECODED_AT_ONCE = 32  # full-size pictures one thread holds while it makes its batch of views
MAX_THREADS = 8  # beyond this many, decoding waits for the disk rather than for a core
PIXEL_SIDE = 32  # px; raw pixels of larger pictures are taken at this size (3 072 numbers, as in CIFAR)


@dataclass(frozen=True)
class Features:
    """Features [n, F] float32 and labels [n] int64 of the same n images, both on the CPU.

    Raises ValueError if the shapes disagree, if there is no image, or if a feature is not finite.
    """

    features: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1]:
            raise ValueError(
                f"features must be [n, F] and labels [n]; got {list(self.features.shape)} and {list(self.labels.shape)}"
            )
        if len(self.labels) == 0:
            raise ValueError("features of no image: the source is empty")
        finite = self.features.isfinite().all(dim=1)
        if not finite.all():
            raise ValueError(
                f"features of {int((~finite).sum())} of {len(finite)} images are NaN or infinite: "
                "the backbone has diverged, or mean and std are wrong"
            )


def extract_features(
    backbone: nn.Module,
    source: Source,
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 512,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Features:
    """Return the backbone's features of every image of `source`, in the source's order.

    The backbone runs in eval mode and without gradients; its weights, its buffers and the training flag of each
    of its modules are afterwards what they were, so an encoder in the middle of its training may be passed.

    Args:
        backbone: maps images [B, 3, S, S] to features [B, F].
        image_size: S, px.
        mean, std: of each of the three channels, for pixel values in 0..1.
        device: moves the backbone there, where it stays; None runs it where its weights are.
        progress: shows a bar if standard error is a terminal; pass False below another live display.

    Raises:
        ValueError: the source has no labels or no images; the backbone's output is not [B, F] or not finite.
    """
    labels = _labels(source)
    if device is not None:
        backbone.to(device)
    first = next(backbone.parameters(), torch.empty(0))
    device, dtype = first.device, first.dtype
    means, stds = (torch.tensor(values, dtype=dtype, device=device) for values in (mean, std))
    outputs = []
    with _frozen(backbone):
        for views in _test_views(source, image_size, batch_size, progress):  # [B, 3, S, S]
            images = normalize(views.to(device), means, stds, torch.channels_last)  # convolves faster on CPUs too
            with torch.inference_mode():
                output = backbone(images)
            if output.ndim != 2:
                raise ValueError(f"the backbone must return features [B, F]; it returned {list(output.shape)}")
            outputs.append(output.float().cpu())  # [B, F]
    return Features(torch.cat(outputs), labels)  # outside inference mode: ordinary tensors, fit for autograd


def pixel_features(source: Source, image_size: int, *, progress: bool = True) -> Features:
    """Return raw pixels in 0..1 as features [n, 3·S·S], S at most 32 px: the floor any backbone must beat.

    Raises ValueError if the source has no labels or no images.
    """
    labels = _labels(source)
    views = _test_views(source, min(image_size, PIXEL_SIDE), 512, progress)
    return Features(torch.cat([batch.flatten(1).float() / 255 for batch in views]), labels)


def _labels(source: Source) -> torch.Tensor:
    if source.labels is None:
        raise ValueError(f"{source.name} has no labels, and an evaluation needs the class of every image")
    if len(source) == 0:
        raise ValueError(f"{source.name} has no images to evaluate on")
    return torch.tensor(np.asarray(source.labels), dtype=torch.int64)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Eval mode, then back to each module's own flag: a BatchNorm frozen inside a training encoder stays frozen."""
    flags = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in flags:
            child.training = training


def _test_views(source: Source, size: int, batch_size: int, progress: bool) -> Iterator[torch.Tensor]:
    """Yield test views [B, 3, size, size] uint8 in the source's order, made ahead by threads (PIL frees the GIL)."""

    def prepare(indices: np.ndarray) -> torch.Tensor:
        pieces = np.split(indices, range(DECODED_AT_ONCE, len(indices), DECODED_AT_ONCE))
        return torch.cat([test_view(source.load(piece), size) for piece in pieces])

    threads = min(MAX_THREADS, os.cpu_count() or 1)
    pending: deque[Future[torch.Tensor]] = deque()
    batches = np.split(np.arange(len(source)), range(batch_size, len(source), batch_size))
    console = Console(stderr=True)
    silent = not (progress and console.is_terminal)
    with ThreadPoolExecutor(threads) as pool:
        for batch in track(batches, source.name, console=console, transient=True, disable=silent):
            pending.append(pool.submit(prepare, batch))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
