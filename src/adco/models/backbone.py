"""Backbones: timm networks, how they are built, adapted to small images, saved and loaded."""

import difflib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from adco.config.defaults import choose_stem
from adco.config.topics import Stem
from adco.errors import InputError
from adco.files import write_bytes

LARGEST_STRIDE = 4  # of a CNN's stem; convolutions with a larger stride are patch embeddings
STEMS = ("conv1", "conv_stem", "stem")  # timm's names of the layers before a CNN's first block


@dataclass(frozen=True)
class BackboneInfo:
    """Architecture and input format of a backbone, stored as metadata in `backbone.safetensors`."""

    name: str  # of the timm model
    image_size: int  # pixels
    mean: tuple[float, ...]  # per RGB channel, for pixel values in [0, 1]
    std: tuple[float, ...]
    arguments: dict[str, Any] = field(default_factory=dict)  # additional arguments of timm.create_model
    stem: Stem = "auto"  # missing in files of earlier versions: chosen by image size


def build_backbone(info: BackboneInfo) -> nn.Module:
    """Return a randomly initialised timm network: images [N, 3, S, S] → features [N, F].

    Raises:
        InputError: if timm does not know the name or rejects the arguments.
    """
    if not timm.is_model(info.name):
        near = difflib.get_close_matches(info.name.lower(), timm.list_models(), n=3) or ["resnet18", "resnet50"]
        raise InputError(f"backbone {info.name!r} is not a timm model: try {', '.join(near)}")
    try:
        backbone = timm.create_model(info.name, pretrained=False, num_classes=0, **info.arguments)
    except (TypeError, RuntimeError, ValueError, LookupError, AssertionError, AttributeError) as error:
        if not info.arguments:  # then nothing given is to blame
            raise
        why = " ".join(str(error).split())
        raise InputError(f"timm model {info.name} does not accept backbone_args {info.arguments}: {why}") from error
    if choose_stem(info.stem, info.image_size) == "cifar":
        use_cifar_stem(backbone)
    # timm initialises the last BatchNorm weight of each residual branch to 0, torchvision (used for all published
    # results of these methods) to 1. With 0, untrained networks score lower and short runs learn more slowly.
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return backbone


def use_cifar_stem(backbone: nn.Module) -> None:
    """Adapt the first layers of a CNN to small images, in place.

    In ResNets, the 7×7 stride-2 convolution becomes 3×3 with stride 1 and the max-pool is removed (He et al. 2016,
    section 4.2). In other CNNs, the kernels of the stem stay, its strides become 1 and its pooling layers are removed.
    Networks without such a stem, for example vision transformers, are left unchanged.
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
        if module.kernel_size == module.stride:  # ConvNeXt: its patches overlap at stride 1, so pad
            module.padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)
        module.stride = (1, 1)


def feature_width(backbone: nn.Module, name: str, image_size: int) -> int:
    """Return the feature width F, from one forward pass: timm's `num_features` is wrong for MobileNetV3 and VGG.

    Raises:
        InputError: if the network does not take images of this size or does not return a vector; names the network.
    """
    dtype, training = next(backbone.parameters()).dtype, backbone.training
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, image_size, image_size, dtype=dtype))
    except (RuntimeError, AssertionError, ValueError, IndexError, AttributeError) as error:
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        hint = f", or --backbone_args '{{img_size: {image_size}}}'" if hasattr(backbone, "patch_embed") else ""
        raise InputError(
            f"backbone {name} does not take images of {image_size} px ({why}): try another --image_size or "
            f"--backbone{hint}"
        ) from error
    finally:
        backbone.train(training)
    if features.ndim != 2:
        raise InputError(
            f"backbone {name} returns {list(features.shape[1:])} per image, not a vector: choose another --backbone"
        )
    return int(features.shape[1])


def save_backbone(path: Path, backbone: nn.Module, info: BackboneInfo) -> None:
    """Save the weights under timm's names (for ResNets, also torchvision's), with `info` as metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    write_bytes(
        path, save(weights, {"adco": json.dumps(asdict(info))})
    )  # save_file's would be readable by the owner only


def load_backbone(path: str | Path) -> tuple[nn.Module, BackboneInfo]:
    """Return a saved backbone in eval mode, and its info.

    Raises:
        InputError: if the file is missing, or was not written by `save_backbone`.
    """
    if not Path(path).is_file():
        raise InputError(f"no backbone at {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get("adco")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    if metadata is None:
        raise InputError(
            f"{path} has no adco metadata, so its network is unknown: use --backbone NAME --weights {path}"
        )
    info = BackboneInfo(**json.loads(metadata))
    backbone = build_backbone(info)
    backbone.load_state_dict(weights)
    return backbone.eval(), info
