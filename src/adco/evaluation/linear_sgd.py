"""The papers' linear evaluation, for comparison with published scores: SGD on augmented images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from adco.config.checks import require
from adco.evaluation.evaluation import Evaluation, Task
from adco.evaluation.linear import Linear
from adco.evaluation.scores import Scores, summarise
from adco.words import counted


@dataclass(frozen=True, kw_only=True)
class LinearSGD(Evaluation):
    """Train a linear classifier by SGD on augmented images: the papers' linear evaluation.

    Args:
        epochs: passes over the training images (paper: 100).
        batch_size: images per step, over all devices together (paper: 256).
        learning_rate: initial learning rate; it falls along a cosine to a thousandth of itself (paper: 10 to 0.01).
    """

    NAME: ClassVar[str] = "linear_sgd"
    TITLE: ClassVar[str] = "linear (SGD)"
    ON_ALL_DEVICES: ClassVar[bool] = True

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 10.0

    def check(self) -> None:
        require(self, "epochs", at_least=1)
        require(self, "batch_size", at_least=1)
        require(self, "learning_rate", above=0)

    def scores(self, task: Task) -> Scores:
        """Return the scores of a task's test images. For raw pixels, they are those of the evaluation `linear`."""
        if task.network is None:
            return Linear().scores(task)
        from adco.evaluation.sgd import fit_by_sgd

        test = task.test_features
        width = task.group.decided_by_first(lambda: test.features.shape[1])
        probe = fit_by_sgd(task.network, width, task, **asdict(self))
        protocol = {"kind": self.NAME, "train_images": len(task.train), **self.recorded()}
        return task.group.decided_by_first(
            lambda: summarise(probe.scores(test.features), test.labels, task.train.classes, protocol)
        )

    @classmethod
    def describe(cls, result: Mapping[str, Any]) -> str:
        epochs = counted(result["protocol"]["epochs"], "epoch")
        return f"a linear layer trained by SGD on augmented images for {epochs}"
