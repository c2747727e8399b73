"""The losses of encoder and adversaries with their gradients, computed block by block in one pass.

The results equal those of the plain formula, without its N × K buffers. For each block of queries:

1. For each block of adversaries, a matrix product gives the logits. The softmax weights (before division by their sum)
   are computed for both temperatures while the logits are in the cache. A second product adds up the queries' gradient
   and the denominators of the encoder's softmax.
2. Once the denominators at τ_adv are known, a third product per block of adversaries computes the adversaries' gradient
   from the weights at τ_adv. These weights are the only buffer with K columns; it holds one block of queries.

The logits of each query are shifted before exp. The shift is the cosine of the nearest key plus a headroom, at most 1.
It depends on the keys only, so a single pass over the adversaries is enough. No cosine exceeds 1 and the shift is at
least 0, so exp cannot overflow. The nearest key is at most the headroom below the shift, so its weight does not
underflow, and the sum cannot vanish. The shift over τ_adv is rounded to bf16: where products are in bf16, adversaries
and keys would otherwise be shifted differently, by up to 8 % of their weights at 0.03.

If the adversaries are divided among ranks, each rank does this for the queries of all ranks and its own adversaries.
For each block of queries, the ranks exchange the queries with their shifts, the denominators at τ_adv, and the sums of
step 1, of which each rank needs only those of its own queries. The gradient of a rank's adversaries is then that of the
mean loss of all ranks. Nothing with K rows or columns is exchanged.

Shapes: N queries, M keys, K adversaries, D width; n queries and c adversaries per block, r · n queries of r ranks.
"""

import math
from typing import Any

import torch
from torch import Tensor

from adco.shards import Shards

# Block sizes, measured on two cores. COLUMNS: adversaries per block; 4 096 was the fastest between 512 and 8 192.
# KEPT_WEIGHTS: number of weights kept at τ_adv, queries per block × K, 24 MB in float32; a third more made no
# difference, half as many was a tenth slower. MIN_ROWS: minimum number of queries per block.
COLUMNS, KEPT_WEIGHTS, MIN_ROWS = 4096, 96 * 65_536, 32


def widened(dtype: torch.dtype, lowest: float) -> torch.dtype:
    """Return the dtype to compute in: float32 or wider; float64 below a temperature of 0.0126, to keep exp in range.

    Args:
        dtype: of the inputs.
        lowest: the lower of the two temperatures.

    Raises:
        ValueError: if exp may overflow float64 too.
    """
    for wide in (torch.promote_types(dtype, torch.float32), torch.float64):
        if 1 / lowest <= _max_exponent(wide):  # the shift keeps all exponents at or below 1 / lowest
            return wide
    raise ValueError(f"temperatures must be at least {1 / _max_exponent(torch.float64):.4f}, got {lowest}")


def _max_exponent(dtype: torch.dtype) -> float:
    """Return the largest |x| for which exp(x) is in range, with headroom for sums: 80 in float32."""
    return 0.9 * math.log(torch.finfo(dtype).max)


class TwoPlayerLoss(torch.autograd.Function):
    """The losses of encoder and adversaries as a function of unit-norm queries, unit-norm keys and raw adversaries.

    `forward` also computes the gradients of the inputs that need one. `backward` returns each of them once.
    `shards` is the division of the adversaries among ranks, each of which passes its own rows and the same number of
    queries; by default, all rows are here. `rows` and `columns` are the largest numbers of queries and adversaries in a
    block.
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
        shards: Shards | None = None,
        rows: int | None = None,
        columns: int = COLUMNS,
    ) -> tuple[Tensor, Tensor]:
        shards = shards or Shards(len(adversaries))
        needs_gradient = ctx.needs_input_grad
        num_queries, width = queries.shape
        columns = max(1, min(columns, len(adversaries)))
        rows = min(rows or max(MIN_ROWS, KEPT_WEIGHTS // shards.rows), num_queries)
        query_gradient = torch.empty_like(queries)
        key_gradient = torch.zeros_like(keys) if needs_gradient[1] else None
        adversary_gradient = torch.empty_like(adversaries) if needs_gradient[2] else None
        losses = queries.new_zeros(2)

        inverse_norms = torch.linalg.vector_norm(adversaries, dim=1, keepdim=True).clamp_min_(1e-12).reciprocal_()
        # One block of unit-norm adversaries and a column of ones, [c, D + 1]; the ones shift and sum.
        unit_and_one = queries.new_empty(columns, width + 1)
        unit_and_one[:, -1] = 1
        logits = queries.new_empty(shards.ranks * rows * columns)
        weights = queries.new_empty(shards.ranks * rows * len(adversaries))  # at τ_adv, all blocks of adversaries
        ratio = adversary_temperature / temperature

        for start in range(0, num_queries, rows):
            q = queries[start : start + rows]  # [n, D]
            positive_rows = slice(first_positive + start, first_positive + start + len(q))
            positive = (q * keys[positive_rows]).sum(1, keepdim=True)  # [n, 1]
            key_weights = q @ keys.T if in_batch_negatives else positive.clone()  # cosines, [n, M] or [n, 1]
            headroom = _max_exponent(q.dtype) * min(temperature, adversary_temperature)
            shift = (key_weights.amax(1, keepdim=True) + headroom).clamp_max_(1)
            scaled_shift = (shift / adversary_temperature).bfloat16().to(q.dtype)
            shift = scaled_shift * adversary_temperature
            key_weights -= shift
            total_adversary = (key_weights / adversary_temperature).exp_().sum(1, keepdim=True)
            key_weights.div_(temperature).exp_()
            weighted_sum = key_weights @ keys if in_batch_negatives else key_weights * keys[positive_rows]
            # The last column becomes the denominator of the softmax.
            weighted_sum = torch.cat([weighted_sum, key_weights.sum(1, keepdim=True)], 1)  # [n, D + 1]
            scaled = shards.gather(torch.cat([q / adversary_temperature, -scaled_shift], 1))  # [r · n, D + 1]
            # The sums over keys are in the part of this rank, so that the sum over ranks has them once.
            total_adversary, weighted_sum = shards.spread(total_adversary), shards.spread(weighted_sum)

            for first in range(0, len(adversaries), columns):
                block = slice(first, first + columns)
                unit = unit_and_one[: len(adversaries[block])]
                torch.mul(adversaries[block], inverse_norms[block], out=unit[:, :-1])
                encoder_weights = logits[: len(scaled) * len(unit)].view(len(scaled), -1)  # [r · n, c]
                adversary_weights = weights[len(scaled) * first :][: len(scaled) * len(unit)].view_as(encoder_weights)
                torch.mm(scaled, unit.T, out=encoder_weights)  # still the logits at τ_adv
                torch.exp(encoder_weights, out=adversary_weights)
                total_adversary += adversary_weights.sum(1, keepdim=True)
                encoder_weights.mul_(ratio).exp_()
                weighted_sum.addmm_(encoder_weights, unit)

            total_adversary, weighted_sum = shards.sum(total_adversary), shards.sum_own(weighted_sum)
            weighted_sum, total = weighted_sum[:, :-1], weighted_sum[:, -1:]
            losses[0] += ((shift - positive) / temperature + total.log()).sum()
            losses[1] += ((shift - positive) / adversary_temperature + shards.own_batch(total_adversary).log()).sum()
            factor = 1 / (num_queries * temperature)
            query_gradient[start : start + len(q)] = (weighted_sum / total - keys[positive_rows]) * factor
            if key_gradient is not None:
                key_weights /= total  # now the softmax
                key_gradient[positive_rows] -= q * factor
                if in_batch_negatives:
                    key_gradient.addmm_(key_weights.T, q, alpha=factor)
                else:
                    key_gradient[positive_rows] += key_weights * q * factor
            if adversary_gradient is not None:
                divisor = total_adversary * (num_queries * shards.ranks)
                scaled_queries = scaled[:, :-1] / divisor  # [r · n, D]
                for first in range(0, len(adversaries), columns):
                    gradient = adversary_gradient[first : first + columns]
                    adversary_weights = weights[len(scaled) * first :][: len(scaled) * len(gradient)]
                    adversary_weights = adversary_weights.view(len(scaled), -1)
                    torch.addmm(gradient, adversary_weights.T, scaled_queries, beta=float(start > 0), out=gradient)

        if adversary_gradient is not None:
            for parts in zip(
                *(x.split(columns) for x in (adversary_gradient, adversaries, inverse_norms)), strict=True
            ):
                _through_normalisation(*parts)
        ctx.gradients = [query_gradient if needs_gradient[0] else None, key_gradient, adversary_gradient]
        ctx.set_materialize_grads(False)
        losses /= num_queries
        return losses[0].clone(), losses[1].clone()

    @staticmethod
    def backward(ctx: Any, encoder: Tensor | None, adversary: Tensor | None) -> tuple[Tensor | None, ...]:
        """Scale the gradients: of queries and keys for the encoder's loss, of adversaries for theirs."""
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("the AdCo loss has no second derivative: do not use create_graph=True")
        gradients: list[Tensor | None] = [None, None, None]
        for index, scale in enumerate((encoder, encoder, adversary)):
            if scale is not None and ctx.needs_input_grad[index]:
                gradient, ctx.gradients[index] = ctx.gradients[index], None
                if gradient is None:
                    raise RuntimeError("the AdCo loss supports one backward pass only: compute the loss again")
                gradients[index] = gradient.mul_(scale)  # in place, because the adversaries' gradient is large
        return (*gradients, *[None] * 7)


def _through_normalisation(gradient: Tensor, adversaries: Tensor, inverse_norms: Tensor) -> None:
    """Turn ∂L/∂â into ∂L/∂A in place: remove the part parallel to each row and divide by the row's norm."""
    parallel = torch.linalg.vecdot(gradient, adversaries).unsqueeze(1).mul_(inverse_norms.square())
    gradient.addcmul_(adversaries, parallel, value=-1).mul_(inverse_norms)
