"""Rows of all ranks: the few lines that know there may be more than one process."""

import os

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def rank() -> int:
    """The global rank: on the second node it is not the local GPU's index."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Whether this process writes, as launchers tell before training starts."""
    return all(int(os.environ.get(name, "0")) == 0 for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks in rank order, [N, ...] → [world · N, ...], without gradient."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def gather_with_gradient(x: Tensor) -> Tensor:
    """As `gather`; each rank's rows get the gradients of what all ranks made of them."""
    if world_size() == 1:
        return x
    return torch.cat(all_gather(x.contiguous()))  # type: ignore[no-untyped-call]
