"""Evaluation of a frozen backbone's features on labelled images: k nearest neighbours (kNN) and a linear probe.

Works on any backbone and any labelled sources, independent of the pretraining method. Hyperparameters are chosen on
training images only; the test images are scored once.

    train, test = (extract_features(backbone, source, image_size=32, mean=mean, std=std) for source in sources)
    knn, linear = (evaluate_features(train, test, classes, kind=kind) for kind in ("knn", "linear"))
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from adco.data.sources import Source
from adco.errors import InputError
from adco.evaluation.features import Features
from adco.evaluation.knn import default_k, knn_scores
from adco.evaluation.linear import fit_linear_probe
from adco.evaluation.scores import Scores, summarise
from adco.words import counted


def evaluate_features(
    train: Features,
    test: Features,
    classes: Sequence[str],
    kind: Literal["knn", "linear"],
    *,
    k: int | None = None,
    temperature: float = 0.1,
    device: torch.device | str | None = None,
) -> Scores:
    """Fit a classifier on the training features and score its predictions for the test features.

    Args:
        train, test: features [n, F] and [m, F] with the same width F.
        classes: the class name of each label; names must be unique.
        kind: "knn" for weighted nearest neighbours with `k` and `temperature`, or "linear" for a linear probe whose L2
            strength is chosen on held-out training images.
        k: number of neighbours; None uses `default_k`. Ignored by the linear probe.
        temperature: of the neighbours' weights; see `knn_scores`. Ignored by the linear probe.
        device: where to compute; None keeps the features on the CPU.

    Returns:
        Scores. Their `protocol` records the kind and every setting, including those chosen here.

    Raises:
        InputError: there are fewer than two classes, or the training images have only one; a label is out of range;
            a class name is repeated; the widths differ; `kind`, `k` or `temperature` is invalid.
    """
    _check_features(train, test, classes)
    train_features, train_labels = train.features.to(device), train.labels.to(device)
    protocol: dict[str, Any] = {"kind": kind, "train_images": len(train.labels), "width": train.features.shape[1]}
    if kind == "knn":
        k = k or default_k(len(train.labels))
        scores = knn_scores(train_features, train_labels, test.features, len(classes), k, temperature)
        protocol |= {"k": min(k, len(train.labels)), "temperature": temperature}
    elif kind == "linear":
        probe = fit_linear_probe(train_features, train_labels, len(classes))
        scores = probe.scores(test.features)
        validation = {f"{l2:g}": top1 for l2, top1 in probe.validation.items()}  # JSON keys are strings
        protocol |= {"l2": probe.l2, "validation_top1": validation}
    else:
        raise InputError(f"kind must be knn or linear; got {kind}")
    return summarise(scores, test.labels, classes, protocol)


def check_classes(train: Source, test: Source) -> None:
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
        if labels.min() < 0 or labels.max() >= len(classes):
            raise InputError(
                f"{split} labels must be in 0..{len(classes) - 1}; got {int(labels.min())}..{int(labels.max())}"
            )
    if train.labels.min() == train.labels.max():
        raise InputError(
            f"training images must have at least 2 classes; all are of class {classes[int(train.labels[0])]}"
        )
