"""A classifier as one network of timm's, whose own last layer is the classifier's."""

import timm
import torch
from torch import nn

from adco.errors import InputError
from adco.exporting.network import Network
from adco.models.stem import use_cifar_stem


def with_classifier(network: Network) -> nn.Module:
    """Return timm's network with the weights of a classifier.

    Args:
        network: a classifier.

    Raises:
        InputError: timm's network does not end with a single linear layer on the features.
    """
    assert network.head is not None
    model = timm.create_model(network.architecture, num_classes=len(network.classes), **network.arguments)
    if network.has_cifar_stem:
        use_cifar_stem(model)
    last: object = model.get_classifier()  # type: ignore[operator]
    if not isinstance(last, nn.Linear) or last.weight.shape != network.head.weight.shape:
        raise InputError(f"to timm: {network.architecture} of timm has another classifier; use --to onnx or torch")
    model.load_state_dict(network.backbone.state_dict(), strict=False)
    with torch.no_grad():
        for ours, theirs in zip(network.head.parameters(), last.parameters(), strict=True):
            theirs.copy_(ours)
    return model.eval()
