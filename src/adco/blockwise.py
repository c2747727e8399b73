"""Both players' losses and gradients in one pass, block by block: the plain formula's numbers, without its buffers.

A block of queries meets the adversaries a block at a time. One product gives the logits, from which the weights of both
softmaxes are made while they are in the cache; a second adds up what pulls the queries, and their denominators. The
weights at τ_adv wait until the block of queries knows its denominators, and a third product makes the adversaries'
gradient of them. Of buffers as wide as the bank, one has the height of a block of queries: the weights at τ_adv.

A row's logits are shifted by a number known before the adversaries are: exp stays within range, as no cosine is above 1
and the row's highest key is in the sum.

Shapes: N queries, M keys, K adversaries, D width; n queries and c adversaries of a block.
"""

import math
from typing import Any

import torch
from torch import Tensor

# Of a block: 4 096 adversaries were the fastest of 512 to 8 192 on two cores; as many queries as the weights that wait
# take 24 MB with, in float32, where a third more made no difference and half were slower by a tenth.
COLUMNS, WEIGHTS, FEWEST_ROWS = 4096, 96 * 65_536, 32


def widened(dtype: torch.dtype, lowest: float) -> torch.dtype:
    """At least float32; float64 below a temperature of 0.0126, where exp could leave float32's range.

    Raises:
        ValueError: if it could leave float64's too.
    """
    for wide in (torch.promote_types(dtype, torch.float32), torch.float64):
        if 1 / lowest <= _reach(wide):  # two cosines are 2 apart at most, and the shift stands between them
            return wide
    raise ValueError(f"temperatures must be at least {1 / _reach(torch.float64):.4f}, got {lowest}")


def _reach(dtype: torch.dtype) -> float:
    """How far from 0 an exponent may be, with room for a sum: 80 in float32."""
    return 0.9 * math.log(torch.finfo(dtype).max)


class TwoPlayerLoss(torch.autograd.Function):
    """(queries, keys, adversaries, τ, τ_adv, first positive, in-batch negatives, rows, columns) → both losses.

    Rows and columns are the largest size of a block.

    The gradients are computed with the losses, as far as they are wanted, and handed out once each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        adversaries: Tensor,
        temperature: float,
        adversary_temperature: float,
        first_positive: int,
        in_batch_negatives: bool,
        rows: int | None = None,
        columns: int = COLUMNS,
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad
        number, width = queries.shape
        columns = min(columns, len(adversaries))
        rows = min(rows or max(FEWEST_ROWS, WEIGHTS // len(adversaries)), number)
        query_gradient = torch.empty_like(queries)
        key_gradient = torch.zeros_like(keys) if wanted[1] else None
        adversary_gradient = torch.empty_like(adversaries) if wanted[2] else None
        losses = queries.new_zeros(2)

        inverse_norms = torch.linalg.vector_norm(adversaries, dim=1, keepdim=True).clamp_min_(1e-12).reciprocal_()
        unit_and_one = queries.new_ones(columns, width + 1)  # of a block, [c, D + 1]: the ones count the weights
        logits = queries.new_empty(rows * columns)
        weights = queries.new_empty(rows * len(adversaries))  # at τ_adv, block after block
        ratio = adversary_temperature / temperature

        for start in range(0, number, rows):
            q = queries[start : start + rows]  # [n, D]
            own = slice(first_positive + start, first_positive + start + len(q))
            positive = (q * keys[own]).sum(1, keepdim=True)  # [n, 1]
            over_keys = q @ keys.T if in_batch_negatives else positive.clone()  # cosines, [n, M] or [n, 1]
            room = _reach(q.dtype) * min(temperature, adversary_temperature)
            shift = (over_keys.amax(1, keepdim=True) + room).clamp_max_(1)
            over_keys -= shift
            total_adversary = (over_keys / adversary_temperature).exp_().sum(1, keepdim=True)
            over_keys.div_(temperature).exp_()
            pull = over_keys @ keys if in_batch_negatives else over_keys * keys[own]
            pull = torch.cat([pull, over_keys.sum(1, keepdim=True)], 1)  # [n, D + 1]: the last is the denominator
            scaled = torch.cat([q, -shift], 1).div_(adversary_temperature)  # [n, D + 1]

            for first in range(0, len(adversaries), columns):
                block = slice(first, first + columns)
                unit = unit_and_one[: len(adversaries[block])]
                torch.mul(adversaries[block], inverse_norms[block], out=unit[:, :-1])
                at = logits[: len(q) * len(unit)].view(len(q), -1)  # [n, c]
                at_adversary = weights[len(q) * first :][: len(q) * len(unit)].view_as(at)
                torch.mm(scaled, unit.T, out=at)
                torch.exp(at, out=at_adversary)
                total_adversary += at_adversary.sum(1, keepdim=True)
                at.mul_(ratio).exp_()
                pull.addmm_(at, unit)

            pull, total = pull[:, :-1], pull[:, -1:]
            losses[0] += ((shift - positive) / temperature + total.log()).sum()
            losses[1] += ((shift - positive) / adversary_temperature + total_adversary.log()).sum()
            share = 1 / (number * temperature)
            query_gradient[start : start + len(q)] = (pull / total - keys[own]) * share
            if key_gradient is not None:
                over_keys /= total  # now the softmax
                key_gradient[own] -= q * share
                if in_batch_negatives:
                    key_gradient.addmm_(over_keys.T, q, alpha=share)
                else:
                    key_gradient[own] += over_keys * q * share
            if adversary_gradient is not None:
                towards = q / (total_adversary * (number * adversary_temperature))  # [n, D]
                for first in range(0, len(adversaries), columns):
                    gradient = adversary_gradient[first : first + columns]
                    at_adversary = weights[len(q) * first :][: len(q) * len(gradient)].view(len(q), -1)
                    torch.addmm(gradient, at_adversary.T, towards, beta=float(start > 0), out=gradient)

        if adversary_gradient is not None:
            for parts in zip(
                *(x.split(columns) for x in (adversary_gradient, adversaries, inverse_norms)), strict=True
            ):
                _through_normalisation(*parts)
        ctx.gradients = [query_gradient if wanted[0] else None, key_gradient, adversary_gradient]
        ctx.set_materialize_grads(False)
        losses /= number
        return losses[0].clone(), losses[1].clone()

    @staticmethod
    def backward(ctx: Any, encoder: Tensor | None, adversary: Tensor | None) -> tuple[Tensor | None, ...]:
        """The encoder's loss moves queries and keys, the adversaries' loss the adversaries."""
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("the two-player loss has no second derivative")
        found: list[Tensor | None] = [None, None, None]
        for place, scale in enumerate((encoder, encoder, adversary)):
            if scale is not None and ctx.needs_input_grad[place]:
                gradient, ctx.gradients[place] = ctx.gradients[place], None
                if gradient is None:
                    raise RuntimeError("a second backward through one two-player loss: compute the loss again")
                found[place] = gradient.mul_(scale)  # in place: the adversaries' is as large as the bank
        return (*found, None, None, None, None, None, None)


def _through_normalisation(gradient: Tensor, adversaries: Tensor, inverse_norms: Tensor) -> None:
    """From ∂L/∂â to ∂L/∂A, in place: what points along a row moves nothing."""
    along = torch.linalg.vecdot(gradient, adversaries).unsqueeze(1).mul_(inverse_norms.square())
    gradient.addcmul_(adversaries, along, value=-1).mul_(inverse_norms)
