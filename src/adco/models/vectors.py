"""Parameters that are vectors by meaning, whatever their shape: position embeddings and tokens."""

import fnmatch

from torch import nn


def vectors(backbone: nn.Module) -> frozenset[nn.Parameter]:
    """Return the parameters of a network that are no weights of a linear or convolutional layer.

    These are biases, scales, position embeddings (1 × tokens × width), class tokens, tables of relative positions, and
    what else the network itself excludes from weight decay (timm's `no_weight_decay`). Optimizers that treat matrices
    in a special way should leave them out.
    """
    patterns: set[str] = getattr(backbone, "no_weight_decay", set)()
    return frozenset(
        parameter
        for name, parameter in backbone.named_parameters()
        if parameter.ndim <= 1
        or name.split(".")[-1] != "weight"
        or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    )
