"""Losses as pure functions: no state, no device, no gather inside.

Shapes: N queries, M keys (of all ranks), K negatives, D width; rows are unit-norm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    first_positive: int = 0,
    in_batch_negatives: bool = True,
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018): −mean log softmax of each query's positive among keys and negatives.

    Args:
        queries: [N, D].
        keys: [M, D], M ≥ N; the positive of query i is row `first_positive` + i.
        negatives: [K, D].
        temperature: the softmax's scale, > 0.
        first_positive: the row of the first query's positive: N times the global rank where keys come from all ranks.
        in_batch_negatives: whether the other keys stand in the denominator too.

    Returns:
        A scalar: the mean over the queries.
    """
    positives = torch.arange(first_positive, first_positive + len(queries), device=queries.device)
    # A cosine rounded to bf16 and divided by τ_adv = 0.02 would put the adversaries' gradient off by 15 %.
    with torch.autocast(queries.device.type, enabled=False):
        if in_batch_negatives:
            logits = queries @ torch.cat([keys, negatives]).T  # [N, M + K]
            return F.cross_entropy(logits / temperature, positives)
        positive = (queries * keys[positives]).sum(1, keepdim=True)  # [N, 1]
        logits = torch.cat([positive, queries @ negatives.T], 1)  # [N, 1 + K]
        return F.cross_entropy(logits / temperature, torch.zeros_like(positives))


def nt_xent(
    first: Tensor,
    second: Tensor,
    all_first: Tensor,
    all_second: Tensor,
    *,
    temperature: float,
    first_positive: int = 0,
) -> Tensor:
    """NT-Xent (Chen et al. 2020, arXiv 2002.05709, equation 1): each of 2N embeddings finds its image's other view.

    Args:
        first, second: [N, D] of the two views of the same images.
        all_first, all_second: [M, D] of all ranks, theirs among them.
        temperature: the softmax's scale, > 0.
        first_positive: the row in them of the first image: N times the global rank.

    Returns:
        A scalar: the mean over the 2N.
    """
    own = torch.arange(first_positive, first_positive + len(first), device=first.device)
    with torch.autocast(first.device.type, enabled=False):
        logits = torch.cat([first, second]) @ torch.cat([all_first, all_second]).T / temperature  # [2N, 2M]
        itself, other = torch.cat([own, own + len(all_first)]), torch.cat([own + len(all_first), own])
        logits = logits.scatter(1, itself[:, None], -torch.inf)
        return F.cross_entropy(logits, other)


def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """Minus the mean cosine of predictions [N, D] and targets [N, D], of any norm, in float32 at least.

    Gradients reach both: a method that stops one detaches it.
    """
    wide = torch.promote_types(predictions.dtype, torch.float32)
    return -F.cosine_similarity(predictions.to(wide), targets.to(wide)).mean()
