"""Shuffle-BN and split-BN: keep BatchNorm from revealing which key belongs to which query.

In train mode, BatchNorm makes every embedding depend on the other images in the batch. If a query and its key are
normalised with the same images, the loss can tell positives from adversaries without looking at the image. Keys are
therefore normalised with other images than their queries: the images are shuffled across ranks (shuffle-BN, He et al.
2020, section 3.3), among groups within each rank's batch (split-BN, MoCo's single-GPU notebook), or both.

Shapes: n images per rank, N images on all ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adco.distributed import gather, rank, world_size

Forward = Callable[[Tensor], Tensor]  # images [n, ...] → embeddings [n, D]


def forward_groups(forward: Forward, x: Tensor, groups: int) -> Tensor:
    """Embed a batch in groups, each with its own batch statistics: [n, ...] → [n, D].

    Group sizes differ by at most one, so there is no small last group with poor statistics.
    """
    return torch.cat([forward(part) for part in x.tensor_split(min(groups, len(x)))])


def forward_shuffled(forward: Forward, x: Tensor, groups: int, order: Tensor, across_ranks: bool) -> Tensor:
    """Embed a batch in shuffled groups and gather the embeddings of all ranks in the original order.

    Args:
        forward: the momentum encoder.
        x: [n, ...] images of this rank.
        groups: number of groups per rank.
        order: a permutation, the same on every rank: of N images if `across_ranks`, else of n.
        across_ranks: whether to shuffle images across ranks.

    Returns:
        Embeddings [N, D] in rank order: image i of rank r is row r · n + i.
    """
    if not across_ranks:
        return gather(_unshuffle(forward_groups(forward, x[order], groups), order))
    shuffled = gather(x)[order].chunk(world_size())[rank()]
    return _unshuffle(gather(forward_groups(forward, shuffled, groups)), order)


def _unshuffle(shuffled: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(shuffled).index_copy_(0, order, shuffled)
