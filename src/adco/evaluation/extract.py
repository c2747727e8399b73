"""Extraction of a frozen backbone's features from the images of a source.

Shapes: n images, B batch size, S image side in pixels, F feature width.
"""

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from adco.data.batch import normalize
from adco.data.damage import count_files, list_files, load_readable, too_many
from adco.data.sources.protocol import Source, Unreadable
from adco.data.views import test_view
from adco.devices import cores
from adco.errors import InputError
from adco.evaluation.features import Features
from adco.ranks import ALONE, Group

DECODED_AT_ONCE = 32  # full-size images that one thread holds in memory while it makes a batch of views
MAX_THREADS = 8  # with more, decoding is limited by the disk rather than the CPU
BATCH = 512  # images of a batch
ON_A_CORE = 64  # images that pass through the backbone at once on a core: few, as memory is slower than a core's cache
ON_A_GPU = 512 * 224**2  # pixels of the images that pass through it at once on a GPU, which limits its memory
PIXEL_SIDE = 32  # px; larger images are reduced to this size for the raw-pixel features (3 072 values, as in CIFAR)

Batch = NDArray[np.int64]  # [b], the indices of its images in the source
Views = tuple[Batch, torch.Tensor]  # the indices [b] of a batch's readable images, and their views [b, C, S, S] uint8
Found = TypeVar("Found")


def embed_batches(
    backbone: nn.Module,
    source: Source,
    batches: Sequence[Batch],
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    damaged: MutableMapping[int, Unreadable],
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yield, for each batch, the indices [b] of its readable images and their features [b, F] float32 on the CPU.

    The backbone runs in eval mode and without gradients. Its weights and buffers are not changed, and the training
    flag of each of its modules is restored at the end.

    Args:
        backbone: maps images [B, C, S, S] to features [B, F].
        source: the images.
        batches: which of them a thread decodes and embeds together. If none of a batch is readable, b and F are 0.
        image_size: S, px.
        mean, std: normalisation of the channels, for pixel values in 0..1.
        damaged: gets the images that cannot be read, by their index, before their batch is yielded.
        device: the backbone is moved to this device and stays there; None runs it where its weights are.
        progress: show a progress bar if standard error is a terminal; pass False inside another live display.

    Raises:
        InputError: the backbone's output is not [B, F].
    """
    if device is not None:
        backbone.to(device)
    first = next(backbone.parameters(), torch.empty(0))
    device, dtype = first.device, first.dtype
    means, stds = (torch.tensor(values, dtype=dtype, device=device) for values in (mean, std))
    at_once = images_at_once(device, image_size)
    one_at_a_time = nullcontext() if device.type == "cpu" else threading.Lock()

    def embed(part: torch.Tensor) -> torch.Tensor:
        images = normalize(part.to(device), means, stds, torch.channels_last)  # faster convolutions, on CPUs too
        output: torch.Tensor = backbone(images)
        if output.ndim != 2:
            raise InputError(f"the backbone must return features [B, F]; it returned {list(output.shape)}")
        return output.float().cpu()

    def embed_batch(batch: Batch) -> tuple[Batch, torch.Tensor]:
        indices, views = _views(source, batch, image_size, damaged)
        if not len(views):
            return indices, torch.empty(0, 0)
        with one_at_a_time, torch.inference_mode():
            return indices, torch.cat([embed(part) for part in torch.split(views, at_once)])

    with _frozen(backbone):
        yield from _in_threads(embed_batch, batches, source.name, progress)


def images_at_once(device: torch.device, image_size: int) -> int:
    """Return how many images of a size in pixels pass through a backbone at once."""
    return ON_A_CORE if device.type == "cpu" else max(1, ON_A_GPU // image_size**2)


def extract_features(
    backbone: nn.Module,
    source: Source,
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = BATCH,
    device: torch.device | str | None = None,
    progress: bool = True,
    max_unreadable: float = 0.01,
    group: Group = ALONE,
) -> Features:
    """Return the backbone's features of every image of a labelled source, in the source's order.

    Images that cannot be read are left out, with a warning. It is safe to call this in the middle of training.

    Args:
        backbone, source, image_size, mean, std, device, progress: as for `embed_batches`.
        batch_size: B.
        max_unreadable: the largest share of images that may be left out, 0 to 1.
        group: the processes that call this together. Each reads a share of the batches, and the first one returns the
            features of all images; the others have no features to return.

    Raises:
        InputError: the source has no labels or no images, or too many that cannot be read; the backbone's output is not
            [B, F] or not finite.
    """
    labels = _labels(source)
    damaged: dict[int, Unreadable] = {}
    batches = embed_batches(
        backbone,
        source,
        group.share(batches_of(len(source), batch_size)),
        image_size=image_size,
        mean=mean,
        std=std,
        damaged=damaged,
        device=device,
        progress=progress and group.rank == 0,
    )
    return _collected((features for _, features in batches), labels, source, damaged, max_unreadable, group)


def pixel_features(
    source: Source,
    image_size: int,
    *,
    max_unreadable: float = 0.01,
    group: Group = ALONE,
) -> Features:
    """Return raw pixels in 0..1 as features [n, 3·S·S], with S = min(image_size, 32 px).

    They are one of the two floors, the baselines that a trained backbone should beat; the other is random weights.

    Images that cannot be read are left out and the work is divided as in `extract_features`, which raises the same
    errors.
    """
    labels = _labels(source)
    damaged: dict[int, Unreadable] = {}
    batches = group.share(batches_of(len(source), BATCH))
    size = min(image_size, PIXEL_SIDE)

    def pixels(batch: Batch) -> torch.Tensor:
        return _views(source, batch, size, damaged)[1].flatten(1).float() / 255

    found = _in_threads(pixels, batches, source.name, group.rank == 0)
    return _collected(found, labels, source, damaged, max_unreadable, group)


def batches_of(images: int, size: int) -> list[Batch]:
    """Return the indices of so many images, in order and in batches of a size, of which the last may be smaller."""
    return np.split(np.arange(images), range(size, images, size))


def _collected(
    batches: Iterable[torch.Tensor],
    labels: torch.Tensor,
    source: Source,
    damaged: Mapping[int, Unreadable],
    max_unreadable: float,
    group: Group,
) -> Features:
    """Return the features of all batches in the first process; they are in memory once. The others send it theirs.

    Args:
        batches: features [b, F] of this process's share of the batches.
        labels: [n], of all images.
        damaged: gets those of this process's images that cannot be read while its batches are computed.
        source, max_unreadable, group: as for `extract_features`.
    """
    features, count = torch.empty(0, 0), 0
    for batch in group.in_order(batches):
        if not len(batch):
            continue
        if not count:
            features = torch.empty(len(labels), batch.shape[1])
        features[count : count + len(batch)] = batch
        count += len(batch)
    of_all = {index: file for part in group.gather(damaged) for index, file in part.items()}
    found: list[Features] = []

    def check() -> None:
        found.append(Features(features[:count], _without(labels, source, of_all, max_unreadable)))

    group.decided_by_first(check)
    return found[0] if found else Features(features, labels[:0])


def _without(
    labels: torch.Tensor, source: Source, damaged: Mapping[int, Unreadable], max_unreadable: float
) -> torch.Tensor:
    """Return the labels without those of damaged images; warn about these, or raise an InputError if they are many."""
    if not damaged:
        return labels
    if len(damaged) == len(source):
        raise InputError(f"none of the {len(source)} images of {source.name} can be read")
    files = [damaged[index] for index in sorted(damaged)]
    if text := too_many(source.name, files, len(source), max_unreadable):
        raise InputError(f"{text}. Repair or remove these files, or raise --max_unreadable")
    left_out = f"left out of the evaluation: {list_files(source.name, files, 3)}"
    warnings.warn(f"{count_files(source.name, files, len(source))}; {left_out}", stacklevel=6)
    readable = torch.ones(len(labels), dtype=torch.bool)
    readable[list(damaged)] = False
    return labels[readable]


def _labels(source: Source) -> torch.Tensor:
    if source.labels is None:
        raise InputError(f"{source.name} has no labels; evaluation needs the class of every image")
    if len(source) == 0:
        raise InputError(f"{source.name} has no images to evaluate on")
    return torch.tensor(np.asarray(source.labels), dtype=torch.int64)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Put `module` in eval mode, then restore the training flag of each submodule.

    Flags are restored one by one, so a BatchNorm layer that was frozen inside a training encoder stays frozen.
    """
    flags = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in flags:
            child.training = training


def _views(source: Source, batch: Batch, size: int, damaged: MutableMapping[int, Unreadable]) -> Views:
    """Return a batch's views; images that cannot be read are left out and added to `damaged`, by their index."""
    chunks = np.split(batch, range(DECODED_AT_ONCE, len(batch), DECODED_AT_ONCE))
    parts = [test_view(load_readable(source, chunk, damaged), size) for chunk in chunks]
    views = torch.cat([part for part in parts if len(part)] or parts[:1])  # an empty part has no number of channels
    return np.array([index for index in batch.tolist() if index not in damaged], np.int64), views


def _in_threads(work: Callable[[Batch], Found], batches: Sequence[Batch], name: str, progress: bool) -> Iterator[Found]:
    """Yield what `work` returns for each batch, in their order. Pillow and torch release the GIL.

    Each thread has its share of the cores, and batches of its own. Threads that share a batch wait for each other at
    each layer, and longer where other threads decode images on the same cores.
    """
    threads, share_all = min(MAX_THREADS, cores()), torch.get_num_threads()
    pending: deque[Future[Found]] = deque()
    console = Console(stderr=True)
    silent = not (progress and console.is_terminal)
    try:
        with ThreadPoolExecutor(threads, "embed", torch.set_num_threads, (max(1, share_all // threads),)) as pool:
            for batch in track(batches, name, console=console, transient=True, disable=silent):
                pending.append(pool.submit(work, batch))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(share_all)  # for threads that start later
