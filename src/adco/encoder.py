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
from safetensors.torch import save
from torch import Tensor, nn

from adco.settings import Stem

NO_LENGTH = 1e-4  # of a projection; those of images that differ are thousands of times as long
SMALL_IMAGE = 64  # pixels: up to this size a backbone gets the CIFAR stem
LARGEST_STRIDE = 4  # of a CNN's stem; a larger one cuts the image into the tokens that the network is made for
STEMS = ("conv1", "conv_stem", "stem")  # timm's names for what lies before a CNN's first block


@dataclass(frozen=True)
class BackboneInfo:
    """What is needed to build a backbone again and to feed it. Stands as metadata in `backbone.safetensors`."""

    name: str  # timm's
    image_size: int  # pixels
    mean: tuple[float, ...]  # of RGB in [0, 1]
    std: tuple[float, ...]
    arguments: dict[str, Any] = field(default_factory=dict)  # further arguments of timm.create_model
    stem: Stem = "auto"  # auto, in files of earlier versions: by the image size


def build_backbone(info: BackboneInfo) -> nn.Module:
    """A timm network with random weights: images [N, 3, S, S] → features [N, F].

    Raises:
        ValueError: if timm does not know the name or the arguments.
    """
    if not timm.is_model(info.name):
        near = difflib.get_close_matches(info.name.lower(), timm.list_models(), n=3) or ["resnet18", "resnet50"]
        raise ValueError(f"backbone {info.name!r} is not a timm model: try {', '.join(near)}")
    try:
        backbone = timm.create_model(info.name, pretrained=False, num_classes=0, **info.arguments)
    except (TypeError, RuntimeError, ValueError, LookupError, AssertionError) as error:
        raise ValueError(f"backbone_args {info.arguments} do not fit timm's {info.name}: {error}") from error
    if choose_stem(info.stem, info.image_size) == "cifar":
        use_cifar_stem(backbone)
    # timm starts each residual branch at zero, torchvision (and all published results of these methods) does not: a
    # floor of random weights would be lower for it, and a short run slower.
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return backbone


def choose_stem(stem: Stem, image_size: int) -> Stem:
    """The stem for images of this size: cifar up to 64 px, unless the user has chosen."""
    if stem != "auto":
        return stem
    return "cifar" if image_size <= SMALL_IMAGE else "standard"


def use_cifar_stem(backbone: nn.Module) -> None:
    """Fit the first layers to small images: a ResNet's 7×7 stride-2 convolution becomes 3×3 stride 1 and its max-pool
    is dropped (He et al. 2016, section 4.2).

    Other CNNs keep their kernels: strides of the stem become 1 and its pools are dropped. Networks whose first layer
    is no strided convolution, or cuts an image into tokens, stay as they are.
    """
    conv = getattr(backbone, "conv1", None)
    if isinstance(conv, nn.Conv2d) and isinstance(getattr(backbone, "maxpool", None), nn.Module):
        backbone.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
        return
    for name, module in list(backbone.named_modules()):
        if name == "maxpool" or name.split(".")[0] in STEMS or name in ("features.conv0", "features.pool0"):
            _remove_stride(backbone, name, module)


def _remove_stride(backbone: nn.Module, name: str, module: nn.Module) -> None:
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        backbone.set_submodule(name, nn.Identity())
    elif isinstance(module, nn.Conv2d) and 1 < max(module.stride) <= LARGEST_STRIDE:
        if module.kernel_size == module.stride:  # patches side by side, as of ConvNeXt, now overlap
            module.padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)
        module.stride = (1, 1)


def feature_width(backbone: nn.Module, name: str, image_size: int) -> int:
    """F, from one forward pass: timm's `num_features` is not the width of all networks (MobileNetV3, VGG).

    Raises:
        ValueError: if the network does not take images of this size, or gives no vector; calls it by its name.
    """
    dtype, training = next(backbone.parameters()).dtype, backbone.training
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, image_size, image_size, dtype=dtype))
    except (RuntimeError, AssertionError, ValueError, IndexError, AttributeError) as error:
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        hint = f", or --backbone_args '{{img_size: {image_size}}}'" if hasattr(backbone, "patch_embed") else ""
        raise ValueError(
            f"backbone {name} does not take images of {image_size} px ({why}): try another --image_size or "
            f"--backbone{hint}"
        ) from error
    finally:
        backbone.train(training)
    if features.ndim != 2:
        raise ValueError(f"backbone {name} gives {list(features.shape[1:])} for an image, not a vector: choose another")
    return int(features.shape[1])


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
    """Rows of norm one, in float32 at least: a norm in bf16 is off by 1 %.

    A row of nearly no length has no direction: it becomes zero and gets no gradient, which would be all but infinite.
    Such are the projections of a group of BatchNorm in which all images are the same.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.normalize(x).masked_fill(x.norm(dim=1, keepdim=True) <= NO_LENGTH, 0)  # NaN stays NaN


def save_backbone(path: Path, backbone: nn.Module, info: BackboneInfo) -> None:
    """Write weights alone, under timm's names (for ResNets they are torchvision's too), with `info` as metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    partial = path.with_suffix(".partial")
    partial.write_bytes(save(weights, {"adco": json.dumps(asdict(info))}))  # save_file's would be readable by us alone
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
