"""Helpers for distributed training. All of them also work in a single process."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Part = TypeVar("Part")


def rank() -> int:
    """Return the global rank. With several nodes it differs from the index of the local GPU."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order, [N, ...] → [world size · N, ...], without gradient."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def shuffle(x: Tensor, order: Tensor) -> Tensor:
    """Return this rank's part of the rows of all ranks in another order, [n, ...] → [n, ...], without gradient.

    A row is sent only to the rank that gets it.

    Args:
        x: this rank's rows.
        order: a permutation of the rows of all ranks, on the CPU, the same on every rank.
    """
    if world_size() == 1:
        return x[order.to(x.device)]
    goes = order.view(world_size(), len(x))  # the rows that each rank gets
    from_here = goes // len(x) == rank()
    sources = goes[rank()] // len(x)
    sent = x[(goes[from_here] - rank() * len(x)).to(x.device)].contiguous()  # all of x: each row goes to one rank
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, sources.bincount(minlength=world_size()).tolist(), from_here.sum(1).tolist())
    arrival = sources.argsort(stable=True).to(x.device)  # the places of the received rows, which are in rank order
    return torch.empty_like(received).index_copy_(0, arrival, received)


def gather_objects(part: Part) -> list[Part]:
    """Return what each rank passed, in rank order."""
    if world_size() == 1:
        return [part]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, part)
    return parts


def gather_with_gradient(x: Tensor) -> Tensor:
    """Like `gather`, but differentiable: each rank's rows get the sum of the gradients from all ranks."""
    if world_size() == 1:
        return x
    return exchange(x.expand(world_size(), *x.shape).flatten(0, 1))


def exchange(x: Tensor) -> Tensor:
    """Send part r of the rows to rank r, and return the parts that were sent here, in rank order and of the same shape.

    Differentiable: the gradients go back to where the rows came from.
    """
    received: Tensor = _Exchange.apply(x)
    return received


class _Exchange(torch.autograd.Function):
    """`exchange`; its own inverse, so that the backward pass is the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x.contiguous())
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return exchange(gradient)
