"""A bank of negatives divided among the ranks: each holds and trains only its own rows.

The ranks exchange embeddings and sums over rows, which are much smaller than the gradient of all rows.

Shapes: R ranks, n rows of a batch on each of them, N = R · n; K rows of the bank, c of them on this rank; D width.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from adco.distributed import gather, rank, world_size


@dataclass(frozen=True)
class Shards:
    """The division of K rows among ranks, in rank order. The numbers of rows of the ranks differ by at most one.

    With one rank, nothing is exchanged, and each function returns its argument. With several, all of them must call it.

    Args:
        rows: K.
        rank: the rank of this process.
        ranks: R.
    """

    rows: int
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_processes(cls, rows: int) -> Self:
        """Divide rows among the processes that train together."""
        return cls(rows, rank(), world_size())

    @property
    def own(self) -> slice:
        """The rows of this rank."""
        return slice(self._first(self.rank), self._first(self.rank + 1))

    def _first(self, rank: int) -> int:
        return rank * (self.rows // self.ranks) + min(rank, self.rows % self.ranks)

    def own_batch(self, batch: Tensor) -> Tensor:
        """Return the part of a batch [N, …] that is this rank's, [n, …]."""
        return batch.chunk(self.ranks)[self.rank]

    def gather(self, own: Tensor) -> Tensor:
        """Return the batch of all ranks in rank order, [n, …] → [N, …]."""
        return own if self.ranks == 1 else gather(own)

    def spread(self, own: Tensor) -> Tensor:
        """Return this rank's batch among zeros for the other ranks', [n, …] → [N, …]."""
        if self.ranks == 1:
            return own
        batch = own.new_zeros(self.ranks * len(own), *own.shape[1:])
        self.own_batch(batch).copy_(own)
        return batch

    def sum(self, batch: Tensor) -> Tensor:
        """Return the sum over ranks of their [N, …], in place."""
        if self.ranks > 1:
            dist.all_reduce(batch)
        return batch

    def sum_own(self, batch: Tensor) -> Tensor:
        """Return this rank's part of the sum over ranks, [N, …] → [n, …]."""
        if self.ranks == 1:
            return batch
        # A reduce-scatter has another name in torch 2.6 than in 2.14. This sends as many bytes.
        parts = torch.empty_like(batch)
        dist.all_to_all_single(parts, batch)
        return parts.view(self.ranks, -1, *batch.shape[1:]).sum(0)

    def join(self, part: Tensor) -> Tensor:
        """Return the rows of all ranks, [c, …] → [K, …]."""
        if self.ranks == 1:
            return part
        most = self._first(1)  # the first ranks have the most rows
        padded = part.new_zeros(most, *part.shape[1:])
        padded[: len(part)] = part
        parts = gather(padded).chunk(self.ranks)
        return torch.cat([rows[: self._first(rank + 1) - self._first(rank)] for rank, rows in enumerate(parts)])
