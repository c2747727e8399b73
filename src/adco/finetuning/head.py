"""Where the linear layer starts: at the linear probe of the training images' features."""

import torch

from adco.data.sources.protocol import Source
from adco.evaluation.extract import extract_features
from adco.evaluation.linear import fit_linear_probe
from adco.models.classifier import Classifier


def start_head(classifier: Classifier, source: Source, max_unreadable: float) -> None:
    """Set the linear layer to the linear probe of labelled images, in place, on the classifier's device.

    A random layer would change good features at first, while it is trained itself (Kumar et al. 2022, arXiv
    2202.10054). The probe standardises features; its mean and standard deviation become part of the layer.

    Raises:
        InputError: if too many images cannot be read.
    """
    info = classifier.info
    found = extract_features(
        classifier.backbone,
        source,
        image_size=info.image_size,
        mean=info.mean,
        std=info.std,
        max_unreadable=max_unreadable,
    )
    device = classifier.head.weight.device
    probe = fit_linear_probe(found.features, found.labels, len(classifier.classes), device=device)
    weight = probe.weight / probe.std
    with torch.no_grad():
        classifier.head.weight.copy_(weight)
        classifier.head.bias.copy_(probe.bias - weight @ probe.mean)
