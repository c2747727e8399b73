"""The kNN at the end of each epoch, on training images only."""

import numpy as np
from torch import nn

from adco.config.pretrain import Resolved
from adco.data.draws import permutation
from adco.data.sources.open import labelled
from adco.data.sources.protocol import Source
from adco.evaluation.extract import extract_features
from adco.evaluation.knn import KNN
from adco.models.backbone import BackboneInfo
from adco.training.build import backbone_info

CHOICE = 1 << 32  # stands for the epoch in the drawing of the images; no run has so many


class OnlineKNN:
    """kNN top-1 in % of a backbone: 20 % of the images are queries, 80 % the reference bank.

    k is chosen as in `adco evaluate knn`, whose bank is all training images and whose queries are the test images. It
    is usually higher.
    """

    def __init__(self, source: Source, info: BackboneInfo) -> None:
        cut = max(1, len(source) // 5)
        self.queries, self.bank = (source.subset(part) for part in np.split(np.arange(len(source)), [cut]))
        self.info = info

    @property
    def has_classes(self) -> bool:
        """Whether the bank has at least two classes: very few images may be of one class."""
        return self.bank.labels is not None and len(np.unique(self.bank.labels)) > 1

    def __call__(self, backbone: nn.Module) -> float:
        bank, queries = (
            extract_features(
                backbone,
                part,
                image_size=self.info.image_size,
                mean=self.info.mean,
                std=self.info.std,
                progress=False,
                max_unreadable=1.0,  # the run itself counts the damaged images
            )
            for part in (self.bank, self.queries)
        )
        return KNN().score_features(bank, queries, self.bank.classes).top1


def online_knn(settings: Resolved, source: Source) -> OnlineKNN | None:
    """Return the kNN on some of the images; None if they have no labels, or are of one class."""
    if source.labels is None or not settings.knn_images:
        return None
    with_class = labelled(source)
    some = permutation(settings.seed, CHOICE, length=len(with_class))[: settings.knn_images]
    online = OnlineKNN(with_class.subset(some), backbone_info(settings))
    return online if online.has_classes else None
