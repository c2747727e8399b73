"""Losses as pure functions: no state, no device handling, no communication between ranks but through `shards`.

Shapes: N queries, M keys (of all ranks), K negatives, c of them on this rank, D the width of the embeddings; rows have
unit norm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from adco.shards import Shards


def info_nce(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    first_positive: int = 0,
    in_batch_negatives: bool = True,
    shards: Shards | None = None,
) -> Tensor:
    """Return InfoNCE (van den Oord et al. 2018): cross-entropy of each query's positive among keys and negatives.

    Args:
        queries: [N, D].
        keys: [M, D], M ≥ N; the positive of query i is row `first_positive` + i.
        negatives: [K, D].
        temperature: softmax temperature, > 0.
        first_positive: row of the first query's positive; N times the global rank if keys come from all ranks.
        in_batch_negatives: whether the other keys are negatives too.
        shards: how the negatives are divided, if each rank passes only its own, [c, D]; see `adversarial_info_nce`.

    Returns:
        A scalar: the mean over the queries.
    """
    shards = shards or Shards(len(negatives))
    positives = torch.arange(first_positive, first_positive + len(queries), device=queries.device)
    # Cosines rounded to bfloat16 are too coarse for a softmax at a low temperature.
    with torch.autocast(queries.device.type, enabled=False):
        to_keys = queries @ keys.T if in_batch_negatives else (queries * keys[positives]).sum(1, keepdim=True)
        to_negatives = shards.logits(shards.gather_with_gradient(queries) @ negatives.T / temperature)
        logits = torch.cat([to_keys / temperature, to_negatives], 1)  # [N, M or 1 + K]
        return F.cross_entropy(logits, positives if in_batch_negatives else torch.zeros_like(positives))


def cooperative_info_nce(
    queries: Tensor, keys: Tensor, bank: Tensor, *, temperature: float, shards: Shards | None = None
) -> tuple[Tensor, Tensor]:
    """Return the losses of the encoder and of the bank in CaCo (Wang et al. 2022, arXiv 2203.14370).

    Both have the value of the cross-entropy of each query's positive among all rows of the bank. The positive is the
    row nearest to the query's key.

    Args:
        queries, keys: [N, D].
        bank: [K, D] rows of any norm; they are normalised here.
        temperature: softmax temperature, > 0.
        shards: how the rows of the bank are divided, if each rank passes only its own, [c, D], of which it has at least
            one; see `adversarial_info_nce`.

    Returns:
        Two scalars: the encoder's, to minimise, is differentiable in the queries only; the bank's, to maximise, in the
        bank only. The gradient of positives has the other sign in it, so that they minimise the loss.
    """
    shards = shards or Shards(len(bank))
    with torch.autocast(queries.device.type, enabled=False):
        rows = F.normalize(bank)
        if shards.ranks > 1 and rows.requires_grad:
            # The losses of all ranks add up in its gradient.
            rows.register_hook(lambda gradient: gradient / shards.ranks)  # type: ignore[no-untyped-call]
        queries = shards.gather_with_gradient(queries)  # [r · N, D] of r ranks
        with torch.no_grad():
            nearest, positives = (shards.gather(keys) @ rows.T).max(1)
            is_here = shards.is_highest(nearest)
        encoder = _cross_entropy(queries @ rows.detach().T / temperature, positives, is_here, shards)
        cosines = queries.detach() @ rows.T  # [r · N, c]
        own = cosines.gather(1, positives[:, None])
        reversed_own = cosines.scatter(
            1, positives[:, None], torch.where(is_here[:, None], 2 * own.detach() - own, own)
        )
        return encoder, _cross_entropy(reversed_own / temperature, positives, is_here, shards)


def _cross_entropy(logits: Tensor, positives: Tensor, is_here: Tensor, shards: Shards) -> Tensor:
    """Return the mean cross-entropy of this rank's queries over the columns of all ranks.

    Args:
        logits: [r · N, c] of the queries of all ranks, over the rows of this rank.
        positives: [r · N], a column of each query.
        is_here: [r · N], whether this column is the query's positive: on one of the ranks only.
        shards: the division of the rows.
    """
    if shards.ranks == 1:
        return F.cross_entropy(logits, positives)
    columns, is_here = positives[:, None], is_here[:, None]
    own = logits.gather(1, columns)
    others = shards.logits(logits.scatter(1, columns, own.masked_fill(is_here, -torch.inf)))  # [N, r]
    positive = shards.sum_own(own.masked_fill(~is_here, 0))  # [N, 1]
    return F.cross_entropy(torch.cat([positive, others], 1), positives.new_zeros(len(positive)))


def nt_xent(
    first: Tensor,
    second: Tensor,
    all_first: Tensor,
    all_second: Tensor,
    *,
    temperature: float,
    first_positive: int = 0,
) -> Tensor:
    """Return NT-Xent (Chen et al. 2020, arXiv 2002.05709, equation 1).

    For each of the 2N embeddings, the other view of the same image is the positive; all other embeddings are negatives.

    Args:
        first, second: [N, D] embeddings of the first and second views of this rank's images.
        all_first, all_second: [M, D] the same for the images of all ranks, including this one.
        temperature: softmax temperature, > 0.
        first_positive: row of this rank's first image in `all_first`; N times the global rank.

    Returns:
        A scalar: the mean over the 2N embeddings.
    """
    own = torch.arange(first_positive, first_positive + len(first), device=first.device)
    with torch.autocast(first.device.type, enabled=False):
        logits = torch.cat([first, second]) @ torch.cat([all_first, all_second]).T / temperature  # [2N, 2M]
        itself, positives = torch.cat([own, own + len(all_first)]), torch.cat([own + len(all_first), own])
        logits = logits.scatter(1, itself[:, None], -torch.inf)
        return F.cross_entropy(logits, positives)


def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return minus the mean cosine similarity of predictions [N, D] and targets [N, D], in float32 or wider.

    Rows may have any norm. Gradients flow to both arguments: pass `targets.detach()` for a stop-gradient.
    """
    wide = torch.promote_types(predictions.dtype, torch.float32)
    return -F.cosine_similarity(predictions.to(wide), targets.to(wide)).mean()
