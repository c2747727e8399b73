"""Weighted k-nearest-neighbour classification: an evaluation of features without training.

Shapes: n training images, m test images, F feature width, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from adco.config.checks import require
from adco.errors import InputError
from adco.evaluation.evaluation import Evaluation
from adco.evaluation.features import Features
from adco.evaluation.nearest import BANK_CHUNK, CHUNK, nearest_in_blocks
from adco.words import counted


@dataclass(frozen=True, kw_only=True)
class KNN(Evaluation):
    """Classify each image by its nearest training images, which vote with weights.

    Args:
        k: number of neighbours that vote; by default 200 (Wu et al. 2018), or a fiftieth of the training images if
            that is fewer, but at least 5.
        temperature: temperature of the votes' weights (Wu et al. 2018 use 0.07; MoCo's CIFAR-10 notebook uses 0.1).
    """

    NAME: ClassVar[str] = "knn"
    TITLE: ClassVar[str] = "kNN"

    k: int | None = None
    temperature: float = 0.1

    def check(self) -> None:
        require(self, "k", at_least=1)
        require(self, "temperature", above=0)

    def classify(
        self, train: Features, test: torch.Tensor, classes: int, device: torch.device | str
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        images = len(train.labels)
        k = min(self.k or default_k(images), images)
        scores = knn_scores(train.features, train.labels, test, classes, k, self.temperature, device=device)
        return scores, {"k": k, "temperature": self.temperature}

    @classmethod
    def describe(cls, result: Mapping[str, Any]) -> str:
        used, asked = result["protocol"], result["evaluation"]["k"]
        fewer = f", all there are ({asked} asked)" if asked and used["k"] < asked else ""
        return (
            f"each test image is classified by its k = {counted(used['k'], 'nearest training image')}{fewer}, "
            f"weighted by exp(cosine / {used['temperature']:g})"
        )


def default_k(images: int) -> int:
    """Return the default number of neighbours for this many training images: 2 % of them, between 5 and 200.

    200 is the value of Wu et al. 2018 for 1.3 M images. It is too large for small sets: of 1 000 images in ten
    classes, each class has only 100.
    """
    return min(200, max(5, images // 50))


def knn_scores(
    train_features: torch.Tensor,
    train_labels: torch.Tensor,
    test_features: torch.Tensor,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
    *,
    device: torch.device | str | None = None,
    chunk: int = CHUNK,
    bank_chunk: int = BANK_CHUNK,
) -> torch.Tensor:
    """Return the share of each class in the votes of each test image's k nearest training images.

    Follows Wu et al. 2018 (https://arxiv.org/abs/1805.01978, section 3.4): neighbours are found by cosine similarity s,
    and each votes for its own class with weight exp(s / temperature). Votes are normalised with a softmax, which cannot
    overflow and does not change the ranking. k = 200 is the paper's value. Temperature 0.1 (0.07 in the paper) is that
    of MoCo's CIFAR-10 demo,
    https://colab.research.google.com/github/facebookresearch/moco/blob/colab-notebook/colab/moco_cifar10_demo.ipynb

    Args:
        train_features: [n, F]; they may be mapped from a file.
        train_labels: [n], in 0..C−1.
        test_features: [m, F].
        num_classes: C.
        k: number of neighbours that vote; with fewer than k training images, all of them vote.
        temperature: of the votes' weights; lower values favour the nearest neighbours.
        device: where to compute; None: where the training features are.
        chunk, bank_chunk: number of test and of training images compared at once. They do not change the result. They
            limit the memory of the device to bank_chunk training features, twice (1.1 GB by default with F = 2 048),
            chunk × bank_chunk similarities (134 MB by default), and k neighbours and C scores of each test image.

    Returns:
        [m, C] on the device; each row sums to 1.

    Raises:
        InputError: k < 1, temperature <= 0, or a chunk < 1.
    """
    for name, value in (("k", k), ("chunk", chunk), ("bank_chunk", bank_chunk)):
        if value < 1:
            raise InputError(f"{name} must be at least 1; got {value}")
    if not temperature > 0:
        raise InputError(f"temperature must be above 0; got {temperature}")
    k, device = min(k, len(train_features)), device or train_features.device
    blocks = (F.normalize(block.to(device), dim=1) for block in torch.split(train_features, bank_chunk))
    similarities, neighbours = nearest_in_blocks(F.normalize(test_features, dim=1), blocks, k, chunk=chunk)
    labels, scores = train_labels.to(device), []
    for near, rows in zip(torch.split(similarities, chunk), torch.split(neighbours, chunk), strict=True):
        weights = (near / temperature).softmax(dim=1)
        votes = weights.new_zeros(len(weights), num_classes)  # [chunk, C]
        scores.append(votes.scatter_add_(1, labels[rows], weights))
    return torch.cat(scores)
