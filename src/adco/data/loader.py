"""Batches of augmented views. The images of a batch and their augmentation are functions of (seed, position).

A batch here is the input of one forward pass; with `accumulate`, an optimizer step takes several batches. The position
of a batch is the number of batches before it since the start of the run. The batch at a position does not depend on the
number of workers or on where the run was interrupted. A resumed run continues at the position it had reached.
"""

import atexit
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from adco.data.batch import Batch
from adco.data.damage import load_or_next
from adco.data.draws import permutation
from adco.data.shared_memory import fits_shared_memory
from adco.data.sources.protocol import Source, Unreadable
from adco.data.views import View, views_of
from adco.data.workers import script_not_repeated, signals_held, start_worker
from adco.errors import InputError


class Assignment(NamedTuple):
    """What a worker needs to know to make a batch."""

    position: int  # number of batches before this one since the start of the run
    epoch: int
    indices: np.ndarray[tuple[int], np.dtype[np.int64]]  # [n], indices of the images in their source


class Order(Sampler[list[Assignment]]):
    """The order of the images: one permutation per epoch, drawn from (seed, epoch). Rank r gets part r of each batch.

    The only state is the position. It advances with each batch that is yielded, so that iteration can stop in the
    middle of an epoch and continue there. It is not reset at the end of an epoch.

    Args:
        length: number of images in the source.
        batch_size: images per batch, over all ranks together; the setting `batch_size` divided by `accumulate`.
        accumulate: batches per optimizer step. The last images of an epoch are dropped if they do not fill a step.
        seed: the seed of the run.
        rank, world_size: the rank of this process and the number of processes.
        position: position of the first batch.
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

    def __iter__(self) -> Iterator[list[Assignment]]:
        """Iterate over the batches from the current position to the end of its epoch."""
        epoch, first = divmod(self.position, len(self))
        order = permutation(self.seed, epoch, length=self.length)
        share = self.batch_size // self.world_size
        for batch in range(first, len(self)):
            start = batch * self.batch_size + self.rank * share
            assignment = Assignment(self.position, epoch, order[start : start + share])
            self.position += 1
            yield [assignment]


class _Arrays(NamedTuple):
    """A batch as arrays, which are pickled. Tensors would be put into shared memory."""

    views: list[NDArray[np.generic]]
    indices: NDArray[np.int64]
    position: int


class _Made(NamedTuple):
    """What a worker returns."""

    batch: Batch | _Arrays | InputError  # PyTorch would add the worker's traceback to the message of a raised error
    damaged: dict[int, Unreadable]  # the images that could not be read, by index


class _BatchMaker(Dataset[_Made]):
    """Dataset whose items are whole batches, indexed by `Assignment`. Each worker process has a copy."""

    def __init__(self, source: Source, views: Sequence[View], seed: int, as_arrays: bool) -> None:
        self.source, self.views, self.seed, self.as_arrays = source, views, seed, as_arrays

    def __getitem__(self, assignment: Assignment) -> _Made:
        epochs = np.full(len(assignment.indices), assignment.epoch)
        found, damaged = assignment.indices.copy(), dict[int, Unreadable]()
        images = load_or_next(self.source, found, damaged)
        try:
            views = views_of(images, self.views, self.seed, epochs, assignment.indices)
        except InputError as error:
            return _Made(error, damaged)
        if self.as_arrays:
            return _Made(_Arrays([view.numpy() for view in views], found, assignment.position), damaged)
        return _Made(Batch(views, torch.from_numpy(found), assignment.position), damaged)


def _single(made: list[_Made]) -> _Made:
    """Collate a list of one item, which is a whole batch already."""
    return made[0]


class Loader(DataLoader[Batch]):
    """Data loader that can start at any position.

    An image that cannot be read is replaced by the next one in the source (see `damage.py`).

    Attributes:
        waited: total time in seconds that the training loop has waited for batches.
        damaged: the images that could not be read so far, by their index.

    Args:
        source: the images.
        views: the augmentation of each view of an image.
        order: the order of the images.
        workers: number of worker processes that make views; with 0, the training process makes them.
        pin_memory: copy batches to pinned memory, for faster transfer to a GPU.
    """

    def __init__(
        self, source: Source, views: Sequence[View], order: Order, *, workers: int = 0, pin_memory: bool = False
    ) -> None:
        share = order.batch_size // order.world_size
        size = share * sum(view.channels * view.size**2 * (4 if view.augment else 1) for view in views)
        maker = _BatchMaker(source, views, order.seed, as_arrays=not fits_shared_memory(size, workers))
        super().__init__(
            maker,  # type: ignore[arg-type]  # `__iter__` makes batches of its items
            batch_sampler=order,
            collate_fn=_single,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
        )
        self.order, self.maker = order, maker
        self.waited = 0.0
        self.damaged: dict[int, Unreadable] = {}

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        others = multiprocessing.active_children()
        with script_not_repeated(self.maker) if self.num_workers else nullcontext(), signals_held():
            items = super().__iter__()
        for worker in multiprocessing.active_children():
            if worker not in others:
                atexit.register(worker.kill)  # Python would send it SIGTERM, which it ignores, and wait for ever
        while True:
            start = time.perf_counter()
            made = next(items, None)
            self.waited += time.perf_counter() - start
            if made is None:
                return
            assert isinstance(made, _Made)
            self.damaged |= made.damaged
            if isinstance(made.batch, InputError):
                del items
                self._iterator = None  # the workers end; they ignore the signal that would end them with the process
                raise made.batch
            yield self._tensors(made.batch) if isinstance(made.batch, _Arrays) else made.batch

    def _tensors(self, batch: _Arrays) -> Batch:
        views, indices = [torch.from_numpy(view) for view in batch.views], torch.from_numpy(batch.indices)
        if self.pin_memory:
            views, indices = [view.pin_memory() for view in views], indices.pin_memory()
        return Batch(views, indices, batch.position)

    def start_at(self, position: int) -> None:
        """Make the batch at this position the next one."""
        self.order.position = position

    # Lightning treats a loader with these two methods as resumable. There is nothing to save, because `PretrainData`
    # computes the position from the step and passes it to `Order`.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
