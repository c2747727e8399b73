"""The encoder, backbone + projector, and its parts.

Shapes: N images, S their side in pixels, F width of the features, D width of the embeddings.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_NORM = 1e-4  # shorter projections have no meaningful direction; usual ones are thousands of times longer


def mlp(*widths: int, batch_norm: bool = False, output_norm: bool = False) -> nn.Sequential:
    """Return an MLP with ReLU after each hidden layer: a projector or a predictor.

    Args:
        widths: widths of the input, the hidden layers and the output.
        batch_norm: whether to add BatchNorm after each hidden layer, which then has no bias.
        output_norm: whether to add BatchNorm after the output layer, which then has no bias.
    """
    layers: list[nn.Module] = []
    for number, (width, following) in enumerate(pairwise(widths), start=2):
        last = number == len(widths)
        norm = output_norm if last else batch_norm
        layers.append(nn.Linear(width, following, bias=not norm))
        layers += [nn.BatchNorm1d(following)] if norm else []
        layers += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Backbone + projector: images [N, 3, S, S] → unit-norm embeddings [N, D].

    Args:
        backbone: images → features [N, F].
        projector: features → projections [N, D].
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def project(self, x: Tensor) -> Tensor:
        """Return projections [N, D]: the embeddings before normalisation."""
        projections: Tensor = self.projector(self.backbone(x))
        return projections

    def embed(self, features: Tensor) -> Tensor:
        """Return the embeddings [N, D] of features [N, F]."""
        return unit(self.projector(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(self.backbone(x))


def unit(x: Tensor) -> Tensor:
    """Scale rows to unit norm, in float32 or wider: a norm in bfloat16 is off by 1 %.

    Rows with a norm of at most 1e-4 become zero and get no gradient, because theirs would be nearly infinite. Such rows
    occur when all images in a BatchNorm group are identical.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.normalize(x).masked_fill(x.norm(dim=1, keepdim=True) <= MIN_NORM, 0)  # NaN stays NaN
