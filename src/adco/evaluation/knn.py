"""Weighted nearest-neighbour classification: a measure of features with nothing to train.

n training images, m test images, F feature width, C classes.
"""

import torch
from torch.nn import functional as F


def default_k(images: int) -> int:
    """200 neighbours (Wu et al. 2018, with 1.3 M images); a fiftieth of the training images where that is fewer, at
    least 5. Of 1 000 images of ten classes, 200 are more than two classes have."""
    return min(200, max(5, images // 50))


def knn_scores(
    train_features: torch.Tensor,
    train_labels: torch.Tensor,
    test_features: torch.Tensor,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    *,
    chunk: int = 512,
    bank_chunk: int = 65_536,
) -> torch.Tensor:
    """Return for each test image the share of each class in the votes of its k nearest training images.

    Wu et al. 2018 (https://arxiv.org/abs/1805.01978, section 3.4): neighbours by cosine similarity s, each voting
    for its own class with weight exp(s / temperature). Votes are divided by their sum, which changes no ranking and
    cannot overflow. k = 200 is theirs; temperature 0.1 (theirs is 0.07) is that of the CIFAR-10 demo of MoCo,
    https://colab.research.google.com/github/facebookresearch/moco/blob/colab-notebook/colab/moco_cifar10_demo.ipynb

    Args:
        train_features: [n, F], whose device does the work.
        train_labels: [n], in 0..C−1.
        test_features: [m, F].
        k: neighbours that vote; with fewer than k training images, all of them vote.
        chunk, bank_chunk: test and training images compared at once. They bound the memory to
            chunk × bank_chunk similarities (134 MB) and do not change the result.

    Returns:
        [m, C] on the training features' device; each row sums to 1.

    Raises:
        ValueError: k < 1, temperature <= 0, or a chunk < 1.
    """
    for name, value in (("k", k), ("chunk", chunk), ("bank_chunk", bank_chunk)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    k = min(k, len(train_features))
    bank = F.normalize(train_features, dim=1)
    scores = []
    for queries in torch.split(test_features, chunk):
        queries = F.normalize(queries.to(bank.device), dim=1)  # [chunk, F]
        similarities, neighbours = _nearest(queries, bank, k, bank_chunk)  # both [chunk, k]
        weights = (similarities / temperature).softmax(dim=1)
        votes = weights.new_zeros(len(queries), num_classes)  # [chunk, C]
        scores.append(votes.scatter_add_(1, train_labels.to(bank.device)[neighbours], weights))
    return torch.cat(scores)


def _nearest(queries: torch.Tensor, bank: torch.Tensor, k: int, bank_chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities and bank rows of each query's k nearest, the best so far against one piece of the bank at a time."""
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty_like(best, dtype=torch.int64)
    for start in range(0, len(bank), bank_chunk):
        similarities, piece = (queries @ bank[start : start + bank_chunk].T).topk(min(k, len(bank[start:]), bank_chunk))
        best, rows = torch.cat([best, similarities], dim=1), torch.cat([rows, piece + start], dim=1)
        best, order = best.topk(min(k, best.shape[1]))
        rows = rows.gather(1, order)
    return best, rows
