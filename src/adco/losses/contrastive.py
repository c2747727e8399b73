"""Losses as pure functions: no state, no device handling, no communication between ranks.

Shapes: N queries, M keys (of all ranks), K negatives, D the width of the embeddings; rows have unit norm.
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
    """Return InfoNCE (van den Oord et al. 2018): cross-entropy of each query's positive among keys and negatives.

    Args:
        queries: [N, D].
        keys: [M, D], M ≥ N; the positive of query i is row `first_positive` + i.
        negatives: [K, D].
        temperature: softmax temperature, > 0.
        first_positive: row of the first query's positive; N times the global rank if keys come from all ranks.
        in_batch_negatives: whether the other keys are negatives too.

    Returns:
        A scalar: the mean over the queries.
    """
    positives = torch.arange(first_positive, first_positive + len(queries), device=queries.device)
    # Cosines rounded to bfloat16 are too coarse for a softmax at a low temperature.
    with torch.autocast(queries.device.type, enabled=False):
        if in_batch_negatives:
            logits = queries @ torch.cat([keys, negatives]).T  # [N, M + K]
            return F.cross_entropy(logits / temperature, positives)
        positive_logits = (queries * keys[positives]).sum(1, keepdim=True)  # [N, 1]
        logits = torch.cat([positive_logits, queries @ negatives.T], 1)  # [N, 1 + K]
        return F.cross_entropy(logits / temperature, torch.zeros_like(positives))


def cooperative_info_nce(queries: Tensor, keys: Tensor, bank: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the losses of the encoder and of the bank in CaCo (Wang et al. 2022, arXiv 2203.14370).

    Both have the value of the cross-entropy of each query's positive among all rows of the bank. The positive is the
    row nearest to the query's key.

    Args:
        queries, keys: [N, D].
        bank: [K, D] rows of any norm; they are normalised here.
        temperature: softmax temperature, > 0.

    Returns:
        Two scalars: the encoder's, to minimise, is differentiable in the queries only; the bank's, to maximise, in the
        bank only. The gradient of positives has the other sign in it, so that they minimise the loss.
    """
    with torch.autocast(queries.device.type, enabled=False):
        rows = F.normalize(bank)
        with torch.no_grad():
            positives = (keys @ rows.T).argmax(1)
        encoder = F.cross_entropy(queries @ rows.detach().T / temperature, positives)
        cosines = queries.detach() @ rows.T  # [N, K]
        own = cosines.gather(1, positives[:, None])
        reversed_own = cosines.scatter(1, positives[:, None], 2 * own.detach() - own)
        return encoder, F.cross_entropy(reversed_own / temperature, positives)


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
