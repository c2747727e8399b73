"""Batches of views: their order and their randomness are functions of (seed, position).

The position counts batches since the start of the run. Whatever the number of workers, and wherever a run was stopped,
the batch at a position is the same: resuming means starting to count there.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from adco.data.draws import permutation
from adco.data.sources import Source
from adco.data.views import View, views_of


class Batch(NamedTuple):
    """Views of a rank's share of a batch."""

    views: list[Tensor]  # each uint8 [n, 3, S, S]
    indices: Tensor  # [n] int64, of the images in their source
    position: int  # batches since the start of the run


class Place(NamedTuple):
    """Where a batch stands and what is in it: what a worker needs to make it."""

    position: int
    epoch: int
    indices: np.ndarray[tuple[int], np.dtype[np.int64]]  # [n] of the images in their source


class Order(Sampler[list[Place]]):
    """The order of images: epoch e's is a permutation drawn from (seed, e); rank r takes the r-th part of each batch.

    Its only state is the position. It is advanced as batches are handed out and not reset at an epoch's end, since the
    one who iterates may stop before exhaustion.

    Args:
        length: images in the source.
        batch_size: images in a batch of all ranks.
        accumulate: batches to a step; the last images of an epoch that do not fill a step are left out.
        seed: the run's.
        rank, world_size: which share of each batch is this process's.
        position: where to start.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        accumulate: int = 1,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
    ) -> None:
        self.length, self.batch_size, self.accumulate, self.seed = length, batch_size, accumulate, seed
        self.rank, self.world_size = rank, world_size
        self.position = position

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.accumulate) * self.accumulate

    def __iter__(self) -> Iterator[list[Place]]:
        """The batches from the position to the end of its epoch."""
        epoch, first = divmod(self.position, len(self))
        order = permutation(self.seed, epoch, length=self.length)
        share = self.batch_size // self.world_size
        for number in range(first, len(self)):
            start = number * self.batch_size + self.rank * share
            place = Place(self.position, epoch, order[start : start + share])
            self.position += 1
            yield [place]


class _Views(Dataset[Batch]):
    """Makes the batch of a place. It is what a worker process holds."""

    def __init__(self, source: Source, views: Sequence[View], seed: int) -> None:
        self.source, self.views, self.seed = source, views, seed

    def __getitem__(self, place: Place) -> Batch:
        epochs = np.full(len(place.indices), place.epoch)
        images, sizes = self.source.load(place.indices), self.source.sizes[place.indices]
        views = views_of(images, sizes, self.views, self.seed, epochs, place.indices)
        return Batch(views, torch.from_numpy(place.indices), place.position)


def _only(batches: list[Batch]) -> Batch:
    return batches[0]


def _leave_signals(worker: int) -> None:
    """Ignore signals that reach the whole process group: the training process saves first, then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Loader(DataLoader[Batch]):
    """A loader that goes on at any position, and knows how long it was waited for: `waited`, in seconds.

    Args:
        source: where images come from.
        views: the distribution of each view of an image.
        order: which images when.
        workers: processes that make views; 0 for the training process itself.
        pin_memory: for a device that copies from pinned memory.
    """

    def __init__(
        self, source: Source, views: Sequence[View], order: Order, *, workers: int = 0, pin_memory: bool = False
    ) -> None:
        super().__init__(
            _Views(source, views, order.seed),
            batch_sampler=order,
            collate_fn=_only,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals,
        )
        self.order = order
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def start_at(self, position: int) -> None:
        """Hand out the batch at this position next."""
        self.order.position = position

    # Lightning leaves the counting to a loader that has these two.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
