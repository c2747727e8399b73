"""What Lightning's Trainer trains: a classifier, with a learning rate for its backbone and one for its linear layer."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from adco.data.batch import Batch, normalize
from adco.finetuning.settings import Resolved
from adco.models.classifier import Classifier
from adco.models.vectors import vectors
from adco.optim.optimizers import with_schedule
from adco.optim.players import Player, Schedule

DECAYS, FACTOR = (0.6, 0.8), 0.2  # SwAV: after 12 and 16 of 20 epochs


class Finetuning(L.LightningModule):
    """A classifier as a LightningModule. Checkpoints contain the state of the classifier, whose keys have no prefix.

    Args:
        classifier: what to train. With a backbone_rate of 0, its backbone is frozen, with its BatchNorm statistics.
        labels: [n], of the training images.
        settings: of the run.
        steps: of the whole run.
    """

    labels: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier, labels: Tensor, settings: Resolved, steps: int) -> None:
        super().__init__()
        self.classifier, self.settings, self.steps = classifier, settings, steps
        classifier.to(memory_format=torch.channels_last).train()
        if not settings.backbone_rate:
            classifier.backbone.requires_grad_(False).eval()  # Lightning leaves it in this mode
        for name, values in (("labels", labels), ("mean", classifier.info.mean), ("std", classifier.info.std)):
            self.register_buffer(name, torch.as_tensor(values), persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        images = normalize(batch.views[0], self.mean, self.std, torch.channels_last)
        loss = F.cross_entropy(self.classifier(images), self.labels[batch.indices])
        return {"loss": loss, "losses": {"loss": loss}}

    def configure_optimizers(self) -> Any:
        return with_schedule(self.settings.optimizer, self._players())

    def _players(self) -> list[Player]:
        settings, classifier = self.settings, self.classifier
        parts = [(classifier.head, 1.0), (classifier.backbone, settings.backbone_rate)]
        return [
            Player(
                parameters=[weights for weights in part.parameters() if weights.requires_grad],
                learning_rate=self._schedule(settings.learning_rate * factor),
                weight_decay=settings.weight_decay,
                vectors=vectors(part),
            )
            for part, factor in parts
            if factor
        ]

    def _schedule(self, peak: float) -> Callable[[int], float]:
        if self.settings.schedule == "cosine":
            return Schedule(peak=peak, final=0.0, warmup_steps=0, steps=self.steps)
        return lambda step: peak * FACTOR ** sum(step >= share * self.steps for share in DECAYS)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.classifier.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.classifier.load_state_dict(*args, **kwargs)


def classifier_of(module: L.LightningModule) -> Classifier:
    """Return the classifier that a Trainer trains."""
    assert isinstance(module, Finetuning)
    return module.classifier
