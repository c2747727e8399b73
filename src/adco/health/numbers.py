"""Health metrics of a run: of the embeddings, for any method, and of AdCo's adversaries.

Shapes: N queries, D width, K adversaries.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Number of queries for the metrics of the adversaries. With K = 8 192 on one core, all 256 of a batch take 49 ms and 64
# take a quarter of that.
MEASURED = 64


@torch.no_grad()
def effective_rank(x: Tensor) -> float:
    """Return the effective rank of x (RankMe): how many dimensions it uses, between 1 and min(N, D).

    exp(−Σ p log p) with p = σ / Σσ + 1e-7, where σ are the singular values of x, neither centred nor normalised
    (Garrido et al. 2023, arXiv 2210.02885, eq. 1). Only values for the same N are comparable. NaN if x contains a value
    that is not finite.

    Args:
        x: [N, D] embeddings or backbone features.
    """
    if not x.isfinite().all():  # eigvalsh would raise
        return math.nan
    x = x.float().cpu().double()
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x  # eigenvalues are σ²; faster than an SVD, accurate in float64
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()  # [min(N, D)]
    p = F.normalize(singular, p=1, dim=0) + 1e-7
    return float((-p * p.log()).sum().exp())


@torch.no_grad()
def embedding_health(queries: Tensor, keys: Tensor) -> dict[str, float]:
    """Return metrics of one batch of embeddings. Rows are normalised here, in float32. NaN in, NaN out.

    - positive_cosine: mean cosine between a query and its key.
    - alignment: mean squared distance between a query and its key; lower is better (Wang & Isola 2020, arXiv
      2005.10242, α = 2).
    - uniformity: log mean exp(−2 d²) over pairs of different queries: 0 if all are equal, close to −4 if they are
      uniform on a sphere of many dimensions (same paper, t = 2).
    - spread: standard deviation of the queries, mean over dimensions, times √D: 0 if all are equal, 1 if they are
      uniform on the sphere, never more (SimSiam, arXiv 2011.10566, fig. 2). It is the only metric that changes if the
      embeddings are rotated.
    - effective_rank: that of the queries; max_rank: its upper bound min(N, D).
    - instance_top1: percentage of queries whose nearest key is their own; instance_chance: its chance level, 100/N.

    Args:
        queries: [N, D], N ≥ 2.
        keys: [N, D]; row i is the key of query i.

    Raises:
        ValueError: if the shapes differ, are not two-dimensional or have fewer than two rows.
    """
    if queries.ndim != 2 or queries.shape != keys.shape or len(queries) < 2:
        raise ValueError(f"queries and keys must both be [N ≥ 2, D], got {[*queries.shape]} and {[*keys.shape]}")
    q, k = F.normalize(queries.float()), F.normalize(keys.float())
    with torch.autocast(queries.device.type, enabled=False):
        nearest = (q @ k.T).argmax(1)  # [N]
    hits = float((nearest == torch.arange(len(q), device=q.device)).float().mean())
    pairs = q.cpu() if q.device.type == "mps" else q  # MPS has no pdist
    return {
        "positive_cosine": float((q * k).sum(1).mean()),
        "alignment": float((q - k).square().sum(1).mean()),
        "uniformity": float(F.pdist(pairs).square().mul(-2).exp().mean().log()),
        "spread": float(q.std(0, correction=0).mean()) * math.sqrt(q.shape[1]),
        "effective_rank": effective_rank(q),
        "max_rank": min(q.shape),
        "instance_top1": 100 * hits if q.isfinite().all() and k.isfinite().all() else math.nan,
        "instance_chance": 100 / len(q),
    }


@torch.no_grad()
def adversary_hardness(
    queries: Tensor,
    keys: Tensor,
    adversaries: Tensor,
    *,
    temperature: float,
    adversary_temperature: float,
    in_batch_negatives: bool = True,
) -> dict[str, float]:
    """Return how hard the adversaries are for the first 64 queries of a batch. Rows are normalised here, in float32.

    - adversary_share_in_loss, adversary_share_in_loss_adversary: the adversaries' share of the softmax, mean over
      queries, at the encoder's and at the adversaries' temperature. The rest is the share of the keys.
    - hardest_adversary_cosine: cosine between a query and its nearest adversary, mean over queries.
    - adversary_concentration: norm of the mean of the unit-norm adversaries: 0 if their directions cancel out, 1 if
      they are all equal.
    - adversary_norm_min, adversary_norm_mean, adversary_norm_max: norms of the adversaries before normalisation.

    Args:
        queries: [N, D].
        keys: [N, D]; row i is the key of query i.
        adversaries: [K, D] unnormalised weights.
        temperature: τ of the encoder's loss.
        adversary_temperature: τ_adv of the adversaries' loss.
        in_batch_negatives: whether keys of other images are in the denominator too; the same as for the loss.

    Raises:
        ValueError: if a temperature is not positive.
    """
    for name, value in (("temperature", temperature), ("adversary_temperature", adversary_temperature)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    with torch.autocast(queries.device.type, enabled=False):  # bfloat16 cosines are too coarse for τ_adv = 0.02
        q, k, weight = F.normalize(queries[:MEASURED].float()), F.normalize(keys.float()), adversaries.float()
        unit = F.normalize(weight)
        to_adversaries = q @ unit.T  # [n, K], n = min(N, MEASURED)
        to_keys = q @ k.T if in_batch_negatives else (q * k[:MEASURED]).sum(1, keepdim=True)  # [n, N] or [n, 1]

    def share(tau: float) -> float:
        return float(((to_adversaries / tau).logsumexp(1) - (to_keys / tau).logsumexp(1)).sigmoid().mean())

    norms = weight.norm(dim=1)  # [K]
    return {
        "adversary_share_in_loss": share(temperature),
        "adversary_share_in_loss_adversary": share(adversary_temperature),
        "hardest_adversary_cosine": float(to_adversaries.amax(1).mean()),
        "adversary_concentration": float(unit.mean(0).norm()),
        "adversary_norm_min": float(norms.min()),
        "adversary_norm_mean": float(norms.mean()),
        "adversary_norm_max": float(norms.max()),
    }
