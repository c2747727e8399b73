"""Negatives divided among the ranks: each holds and trains only its own rows.

The ranks exchange embeddings and sums over rows, which are much smaller than the gradient of all rows.

Shapes: R ranks, n rows of a batch on each of them, N = R · n; K negatives, c of them on this rank; D width.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adco.distributed import exchange, gather, gather_with_gradient, rank, world_size


@dataclass(frozen=True)
class Shards:
    """The division of K rows among ranks, in rank order. The numbers of rows of the ranks differ by at most one.

    With one rank, nothing is exchanged: what is passed is returned. With several, all ranks must call a function.

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
        """Return the batch of all ranks in rank order, [n, …] → [N, …], without gradient."""
        return own if self.ranks == 1 else gather(own)

    def gather_with_gradient(self, own: Tensor) -> Tensor:
        """Return the batch of all ranks in rank order, [n, …] → [N, …]; the gradients of all ranks are added up."""
        return own if self.ranks == 1 else gather_with_gradient(own)

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
        """Return this rank's part of the sum over ranks, [N, …] → [n, …]. Differentiable."""
        if self.ranks == 1:
            return batch
        # torch's reduce-scatter has another name in torch 2.6 than in 2.14. This sends as many bytes.
        return exchange(batch).view(self.ranks, -1, *batch.shape[1:]).sum(0)

    def logits(self, logits: Tensor) -> Tensor:
        """Return logits of this rank's batch that have the same softmax denominators as those over all K rows.

        They are the logits themselves with one rank, else one per rank: the logarithm of its denominator.
        Differentiable.

        Args:
            logits: [N, c], of the batch of all ranks, over the rows of this rank.

        Returns:
            [n, K] with one rank, else [n, R].
        """
        if self.ranks == 1:
            return logits
        return exchange(logits.logsumexp(1)).view(self.ranks, -1).T

    def is_highest(self, values: Tensor) -> Tensor:
        """Return where this rank's values are the highest of all ranks, [N] → [N]; of equal ones, the first rank's."""
        return self.gather(values[None]).argmax(0) == self.rank

    def join(self, part: Tensor) -> Tensor:
        """Return the rows of all ranks, [c, …] → [K, …]."""
        if self.ranks == 1:
            return part
        most = self._first(1)  # the first ranks have the most rows
        padded = part.new_zeros(most, *part.shape[1:])
        padded[: len(part)] = part
        parts = gather(padded).chunk(self.ranks)
        return torch.cat([rows[: self._first(rank + 1) - self._first(rank)] for rank, rows in enumerate(parts)])


class Rows:
    """The K rows of a parameter, of which each rank may keep only its own.

    Args:
        module: has the parameter, [K, D]; [c, D] once it is divided, and still the same object.
        name: of the parameter.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.shards = Shards(len(self.weight))

    @property
    def weight(self) -> nn.Parameter:
        """The parameter."""
        return self.module.get_parameter(self.name)

    def divide(self) -> None:
        """Keep only this rank's rows."""
        self.shards = Shards.of_processes(len(self.weight))
        self.weight.data = self.weight.data[self.shards.own].clone()

    def of_all_ranks(self) -> Tensor:
        """Return all rows, [K, D], without gradient. If they are divided, all ranks must call it."""
        return self.shards.join(self.weight.detach())
