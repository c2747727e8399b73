"""Shuffle-BN and split-BN: keep BatchNorm from revealing which key belongs to which query.

In train mode, BatchNorm makes every embedding depend on the other images in the batch. If a query and its key are
normalised with the same images, the loss can tell positives from adversaries without looking at the image. Keys are
therefore normalised with other images than their queries: the images are shuffled across ranks (shuffle-BN, He et al.
2020, section 3.3), among groups within each rank's batch (split-BN, MoCo's single-GPU notebook), or both.

Shapes: n images per rank, N images on all ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adco.config.defaults import BACKBONE
from adco.distributed import gather, shuffle

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Forward = Callable[[Tensor], Tensor]  # images [n, ...] → embeddings [n, D]


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether an image's output depends on the other images of its batch; frozen layers do not count."""
    return any(isinstance(module, BATCH_NORMS) for module in network.modules())


def named_has_batch_norm(name: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a timm network has BatchNorm; True for unknown names.

    Args:
        name: of the network.
        arguments: further arguments of `timm.create_model`.
    """
    if name == BACKBONE and "norm_layer" not in arguments:
        return True  # without importing timm, which takes seconds
    import timm

    try:
        with torch.device("meta"):  # without memory for the weights
            return has_batch_norm(timm.create_model(name, num_classes=0, **arguments))
    except (TypeError, RuntimeError, ValueError, LookupError, AssertionError, AttributeError):
        return True  # building the network will tell what is wrong


class _StatisticsOfGroups(TorchFunctionMode):
    """Within this context, BatchNorm in train mode normalises each group of a batch with the statistics of the group.

    All other layers compute the batch at once. On a GPU, a forward pass for each group would take several times as
    long, because it starts as many kernels for a group as for the batch.

    Args:
        sizes: images of each group.
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
        rows = len(x) // sum(self.sizes)  # per image; more than one where a network normalises the tokens of all images
        parts = torch.split(x, [rows * size for size in self.sizes])
        return torch.cat([F.batch_norm(part, mean, var, weight, bias, training, momentum, eps) for part in parts])


def group_sizes(images: int, groups: int) -> list[int]:
    """Return the sizes of at most `groups` groups of a batch.

    They differ by at most one, so there is no small last group with poor statistics.
    """
    groups = min(groups, images)
    return [images // groups + (number < images % groups) for number in range(groups)]


def forward_groups(forward: Forward, x: Tensor, groups: int) -> Tensor:
    """Embed a batch of which each group has its own batch statistics: [n, ...] → [n, D]."""
    if groups == 1:
        return forward(x)
    with _StatisticsOfGroups(group_sizes(len(x), groups)):
        return forward(x)


def forward_shuffled(forward: Forward, x: Tensor, groups: int, order: Tensor, across_ranks: bool) -> Tensor:
    """Embed a batch in shuffled groups and gather the embeddings of all ranks in the original order.

    Args:
        forward: the momentum encoder, or its part that has BatchNorm.
        x: [n, ...] images of this rank, or the features of this part's input.
        groups: number of groups per rank.
        order: a permutation on the CPU, the same on every rank: of N images if `across_ranks`, else of n.
        across_ranks: whether to shuffle images across ranks.

    Returns:
        Embeddings [N, D] in rank order: image i of rank r is row r · n + i.
    """
    places = order.to(x.device)
    if not across_ranks:
        return gather(_unshuffle(forward_groups(forward, x[places], groups), places))
    return _unshuffle(gather(forward_groups(forward, shuffle(x, order), groups)), places)


def _unshuffle(shuffled: Tensor, places: Tensor) -> Tensor:
    return torch.empty_like(shuffled).index_copy_(0, places, shuffled)
