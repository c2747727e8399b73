"""`torchvision`: weights of a ResNet under torchvision's names, which are also timm's."""

from pathlib import Path

import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn

from adco.errors import InputError
from adco.exporting.format import Format
from adco.exporting.network import Network
from adco.models.stem import use_cifar_stem

# The networks that timm and torchvision have under one name, with the same names of parameters.
RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
)


class TorchvisionWeights(Format):
    """A .pth file with the state dict of `torchvision.models.resnet…`, with `fc` if it is of a classifier."""

    SUFFIX = ".pth"

    def check(self, network: Network) -> None:
        name = network.architecture
        if name not in RESNETS:
            raise InputError(
                f"to torchvision is for ResNets: {', '.join(RESNETS)}; use --to timm, onnx or torch for {name}"
            )
        with torch.device("meta"):
            model = _model(network)
        shapes, theirs = ({key: x.shape for key, x in net.items()} for net in (_weights(network), model.state_dict()))
        if shapes != theirs:
            given = f" with backbone_args {network.info.arguments}"
            raise InputError(f"to torchvision: it has no {name}{given}; use --to timm, onnx or torch")

    def write(self, network: Network, path: Path) -> None:
        torch.save(_weights(network), path)

    def line(self, network: Network, path: Path) -> str:
        classes = f"num_classes={len(network.classes)}" if network.head else ""
        steps = ["import torch, torchvision", f"model = torchvision.models.{network.architecture}({classes})"]
        steps += [] if network.head else ["model.fc = torch.nn.Identity()"]
        if network.has_cifar_stem:
            steps += ["model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)"]
            steps += ["model.maxpool = torch.nn.Identity()"]
        steps += [f"model.load_state_dict(torch.load({str(path)!r}))", f"{network.output} = model.eval()(images)"]
        return "; ".join(steps)


def _weights(network: Network) -> dict[str, Tensor]:
    of_head = network.head.state_dict() if network.head else {}
    return {**network.backbone.state_dict(), **{f"fc.{name}": weights for name, weights in of_head.items()}}


def _model(network: Network) -> nn.Module:
    """Return torchvision's network that the weights are for."""
    model: nn.Module = torchvision.models.get_model(
        network.architecture, weights=None, num_classes=max(1, len(network.classes))
    )
    if not network.head:
        model.fc = nn.Identity()
    if network.has_cifar_stem:
        use_cifar_stem(model)
    return model
