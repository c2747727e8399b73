"""Keeping queries and keys from sharing batch statistics, by which they could find each other without looking.

BatchNorm in train mode leaves a trace of the batch in every embedding. If a query and its key are normalised with the
same images, that trace tells the positive from the adversaries. So keys are normalised in another company than their
queries: in shuffled order, over ranks (shuffle-BN, He et al. 2020, section 3.3), over groups of one rank's batch
(split-BN, MoCo's single-GPU notebook), or both.

Shapes: n images of a rank, N of all ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adco.distributed import gather, rank, world_size

Forward = Callable[[Tensor], Tensor]  # images [n, ...] → embeddings [n, D]


def forward_groups(forward: Forward, x: Tensor, groups: int) -> Tensor:
    """Embed a batch group by group, each with batch statistics of its own: [n, ...] → [n, D].

    Sizes of groups differ by one at most: no image is left alone with its own statistics.
    """
    return torch.cat([forward(part) for part in x.tensor_split(min(groups, len(x)))])


def forward_shuffled(forward: Forward, x: Tensor, groups: int, order: Tensor, across_ranks: bool) -> Tensor:
    """Embed a batch in shuffled groups, and gather the embeddings of all ranks in the images' own order.

    Args:
        forward: the momentum encoder.
        x: [n, ...] this rank's images.
        groups: how many groups each rank embeds one by one.
        order: a permutation, the same on every rank: of N across ranks, else of n.
        across_ranks: whether images change ranks too.

    Returns:
        [N, D], rows in rank order: image i of rank r is row r · n + i.
    """
    if not across_ranks:
        return gather(_unshuffle(forward_groups(forward, x[order], groups), order))
    mine = gather(x)[order].chunk(world_size())[rank()]
    return _unshuffle(gather(forward_groups(forward, mine, groups)), order)


def _unshuffle(shuffled: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(shuffled).index_copy_(0, order, shuffled)
