"""Backbone (timm), projector, and their union, the encoder; how a backbone is written and read."""

import difflib
import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SMALL_IMAGE = 64  # pixels: up to this size a backbone gets the CIFAR stem


@dataclass(frozen=True)
class BackboneInfo:
    """What is needed to build a backbone again and to feed it. Stands as metadata in `backbone.safetensors`."""

    name: str  # timm's
    image_size: int  # pixels
    mean: tuple[float, ...]  # of RGB in [0, 1]
    std: tuple[float, ...]
    arguments: dict[str, Any] = field(default_factory=dict)  # further arguments of timm.create_model


def build_backbone(info: BackboneInfo) -> nn.Module:
    """A timm network with random weights: images [N, 3, S, S] → features [N, F].

    Raises:
        ValueError: if timm does not know the name, or images are small and the network has no plain stem to replace.
    """
    if not timm.is_model(info.name):
        near = difflib.get_close_matches(info.name.lower(), timm.list_models(), n=3) or ["resnet18", "resnet50"]
        raise ValueError(f"backbone {info.name!r} is not a timm model: try {', '.join(near)}")
    try:
        backbone = timm.create_model(info.name, pretrained=False, num_classes=0, **info.arguments)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"backbone_args {info.arguments} do not fit timm's {info.name}: {error}") from error
    if info.image_size <= SMALL_IMAGE:
        use_cifar_stem(backbone)
    # timm starts each residual branch at zero, torchvision (and all published results of these methods) does not: a
    # floor of random weights would be lower for it, and a short run slower.
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return backbone


def use_cifar_stem(backbone: nn.Module) -> None:
    """Replace a ResNet's 7×7 stride-2 convolution by 3×3 stride 1 and drop its max-pool (He et al. 2016, section 4.2).

    Raises:
        ValueError: if the network's first layers have no such names.
    """
    conv, pool = getattr(backbone, "conv1", None), getattr(backbone, "maxpool", None)
    if not isinstance(conv, nn.Conv2d) or pool is None:
        raise ValueError(
            f"backbone {type(backbone).__name__} has no plain conv1 and maxpool to fit images of at most "
            f"{SMALL_IMAGE} px: take a ResNet, or a larger image_size"
        )
    backbone.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()


def mlp(*widths: int, batch_norm: bool = False, output_norm: bool = False) -> nn.Sequential:
    """Linear layers from width to width with ReLU between them: a projector or a predictor.

    Args:
        widths: of the input, of each hidden layer, of the output.
        batch_norm: whether BatchNorm stands behind each hidden layer, which then has no bias.
        output_norm: whether BatchNorm stands behind the last layer too.
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
        """Embeddings of any norm."""
        projections: Tensor = self.projector(self.backbone(x))
        return projections

    def forward(self, x: Tensor) -> Tensor:
        return unit(self.project(x))


def unit(x: Tensor) -> Tensor:
    """Rows of norm one, in float32 at least: a norm in bf16 is off by 1 %."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)))


def save_backbone(path: Path, backbone: nn.Module, info: BackboneInfo) -> None:
    """Write weights alone, under timm's names (for ResNets they are torchvision's too), with `info` as metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(weights, partial, {"adco": json.dumps(asdict(info))})
    partial.replace(path)


def load_backbone(path: str | Path) -> tuple[nn.Module, BackboneInfo]:
    """Read a backbone in eval mode and what is known of it.

    Raises:
        ValueError: if the file is missing, or was not written by `save_backbone`.
    """
    if not Path(path).is_file():
        raise ValueError(f"no backbone at {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get("adco")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if metadata is None:
        raise ValueError(f"{path} has no adco metadata: it names no network, so give --backbone NAME --weights {path}")
    info = BackboneInfo(**json.loads(metadata))
    backbone = build_backbone(info)
    backbone.load_state_dict(weights)
    return backbone.eval(), info
