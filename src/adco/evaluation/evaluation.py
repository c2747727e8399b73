"""What an evaluation is: a way to classify labelled images with the features of a frozen backbone.

A new evaluation is a subclass of `Evaluation` in one file, and a line in `EVALUATIONS` (registry.py). Its fields are
its settings: flags of `adco evaluate NAME`, and keywords of `adco.evaluate`.

    train, test = (extract_features(backbone, source, image_size=32, mean=mean, std=std) for source in sources)
    KNN(k=20).score_features(train, test, classes).top1

Shapes: n training images, m test images, F feature width, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from adco.errors import InputError
from adco.evaluation.features import Features
from adco.evaluation.scores import Scores, summarise
from adco.words import counted

if TYPE_CHECKING:
    from adco.data.sources.protocol import Source
    from adco.models.backbone import BackboneInfo
    from adco.ranks import Group


@dataclass(frozen=True)
class Task:
    """Labelled images, and the network whose features are used to classify them.

    Args:
        train, test: training and test images of the same classes.
        network: the frozen backbone; None if the features are raw pixels.
        info: describes the backbone; its mean and std normalise the images.
        image_size: side of the images in pixels, as the backbone sees them.
        extract: returns the features of a source's images; of several processes, the first one has them.
        device: where to compute.
        group: the processes that evaluate together. All of them ask for the same features in the same order.
    """

    train: "Source"
    test: "Source"
    network: nn.Module | None
    info: "BackboneInfo"
    image_size: int
    extract: "Callable[[Source], Features]"
    device: str
    group: "Group"

    @cached_property
    def train_features(self) -> Features:
        """Features of the training images, extracted once for all evaluations."""
        return self.extract(self.train)

    @cached_property
    def test_features(self) -> Features:
        """Features of the test images, extracted once for all evaluations."""
        return self.extract(self.test)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A way to classify images. Hyperparameters are chosen on training images; test images are scored once."""

    NAME: ClassVar[str]  # its name in `EVALUATIONS`
    TITLE: ClassVar[str]  # title of its column in a comparison
    ON_ALL_DEVICES: ClassVar[bool] = False  # whether it uses all devices unless a number is given

    def check(self) -> None:
        """Raise an InputError that names the first impossible setting, its value, and what is allowed."""

    def scores(self, task: Task) -> Scores:
        """Return the scores of a task's test images.

        All processes of the task's group call this: they share the extraction, and the first one classifies.
        """
        train, test = task.train_features, task.test_features
        return task.group.decided_by_first(lambda: self.score_features(train, test, task.train.classes, task.device))

    def score_features(
        self, train: Features, test: Features, classes: Sequence[str], device: torch.device | str | None = None
    ) -> Scores:
        """Fit a classifier on the training features and score its predictions for the test features.

        Args:
            train, test: features [n, F] and [m, F] with the same width F.
            classes: the class name of each label; names must be unique.
            device: where to compute; None: where the training features are.

        Returns:
            Scores. Their `protocol` records the evaluation and the settings used, including those chosen here.

        Raises:
            InputError: there are fewer than two classes, or the training images have only one; a label is out of
                range; a class name is repeated; the widths differ; a setting is invalid.
        """
        self.check()
        _check_features(train, test, classes)
        scores, used = self.classify(train, test.features, len(classes), device or train.features.device)
        protocol = {"kind": self.NAME, "train_images": len(train.labels), "width": train.features.shape[1]}
        return summarise(scores, test.labels, classes, protocol | used)

    def classify(
        self, train: Features, test: torch.Tensor, classes: int, device: torch.device | str
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return scores [m, C], one per test image and class, and the settings used, for the protocol.

        Args:
            train: features [n, F] and labels [n], which may be too large for the memory of a GPU.
            test: features [m, F].
            classes: C.
            device: where to compute; the features may be elsewhere.
        """
        raise NotImplementedError

    def recorded(self) -> dict[str, Any]:
        """Return the settings that affect the scores; results with other values of them get files of their own."""
        return asdict(self)

    @classmethod
    def describe(cls, result: Mapping[str, Any]) -> str:
        """Return one line for the terminal that says how a result was computed."""
        return cls.TITLE


def check_classes(train: "Source", test: "Source") -> None:
    """Raise InputError unless both sources have the same classes in the same order, and at least two of them."""
    if len(train.classes) < 2:
        classes = counted(len(train.classes), "class", "classes")
        raise InputError(f"{train.name} has {classes}; an evaluation needs at least 2")
    if train.classes == test.classes:
        return
    missing, extra = (
        sorted(set(a) - set(b)) for a, b in ((train.classes, test.classes), (test.classes, train.classes))
    )
    difference = "; ".join(
        f"{what}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        for what, names in ((f"only in {train.name}", missing), (f"only in {test.name}", extra))
        if names
    )
    raise InputError(
        f"{test.name} must have the same classes as {train.name}, in the same order; "
        f"{difference or 'the order differs'}"
    )


def _check_features(train: Features, test: Features, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise InputError(f"an evaluation needs at least 2 classes; got {len(classes)}")
    if len(set(classes)) < len(classes):
        raise InputError("class names must be unique")
    if train.features.shape[1] != test.features.shape[1]:
        raise InputError(
            "training and test features must have the same width; "
            f"got {train.features.shape[1]} and {test.features.shape[1]}"
        )
    for split, labels in (("training", train.labels), ("test", test.labels)):
        if len(labels) == 0:
            raise InputError(f"there are no {split} images")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise InputError(
                f"{split} labels must be in 0..{len(classes) - 1}; got {int(labels.min())}..{int(labels.max())}"
            )
    if train.labels.min() == train.labels.max():
        raise InputError(
            f"training images must have at least 2 classes; all are of class {classes[int(train.labels[0])]}"
        )
