"""`torchvision`: weights of a ResNet under torchvision's names, which are also timm's."""

from pathlib import Path

import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn

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
    """A .pth file with the state dict of `torchvision.models.resnet…`, without the classifier `fc`."""

    SUFFIX = ".pth"

    def check(self, network: Network) -> None:
        name = network.architecture
        if name not in RESNETS:
            raise InputError(
                f"to torchvision is for ResNets: {', '.join(RESNETS)}; use --to timm, onnx or torch for {name}"
            )
        with torch.device("meta"):
            model = _without_classifier(network)
        shapes, theirs = ({key: x.shape for key, x in net.state_dict().items()} for net in (network.backbone, model))
        if shapes != theirs:
            given = f" with backbone_args {network.info.arguments}"
            raise InputError(f"to torchvision: it has no {name}{given}; use --to timm, onnx or torch")

    def write(self, network: Network, path: Path) -> None:
        torch.save(network.backbone.state_dict(), path)

    def line(self, network: Network, path: Path) -> str:
        steps = ["import torch, torchvision", f"model = torchvision.models.{network.architecture}()"]
        steps += ["model.fc = torch.nn.Identity()"]
        if network.has_cifar_stem:
            steps += ["model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)"]
            steps += ["model.maxpool = torch.nn.Identity()"]
        steps += [f"model.load_state_dict(torch.load({str(path)!r}))", "features = model.eval()(images)"]
        return "; ".join(steps)


def _without_classifier(network: Network) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(network.architecture, weights=None)
    model.fc = nn.Identity()
    if network.has_cifar_stem:
        use_cifar_stem(model)
    return model
