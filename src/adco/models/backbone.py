"""Backbones: timm networks, how they are built, adapted to small images, saved and loaded."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from adco.config.defaults import choose_stem
from adco.config.networks import check_network
from adco.config.topics import Stem
from adco.errors import InputError
from adco.files import write_bytes
from adco.models.reading import read_safetensors
from adco.models.sizes import UNSUITABLE, has_fixed_size, inputs_of_strides, nearest_sizes, size_arguments
from adco.models.stem import use_cifar_stem
from adco.untrusted import reading


@dataclass(frozen=True)
class BackboneInfo:
    """Architecture and input format of a backbone, stored as metadata in `backbone.safetensors`."""

    name: str  # of the timm model
    image_size: int  # pixels
    mean: tuple[float, ...]  # per channel, for pixel values in [0, 1]
    std: tuple[float, ...]
    arguments: dict[str, Any] = field(default_factory=dict)  # additional arguments of timm.create_model
    stem: Stem = "auto"  # missing in files of earlier versions: chosen by image size

    def __post_init__(self) -> None:
        """Raise an InputError if the description, which may be from a file, is impossible."""
        check_network(
            backbone=self.name,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            backbone_args=self.arguments,
            stem=self.stem,
        )


def build_backbone(info: BackboneInfo) -> nn.Module:
    """Return a randomly initialised timm network: images [N, C, S, S] → features [N, F].

    Networks that timm builds for one size of images are built for `info.image_size`.

    Raises:
        InputError: if timm does not know the name, rejects the arguments, or cannot build the network for this size.
    """
    if not timm.is_model(info.name):
        near = difflib.get_close_matches(info.name.lower(), timm.list_models(), n=3) or ["resnet18", "resnet50"]
        raise InputError(f"backbone {info.name!r} is not a timm model: try {', '.join(near)}")
    try:
        get_pretrained_cfg(info.name)
    except RuntimeError as error:  # it has no such tag
        known = ", ".join(timm.list_pretrained(f"{info.name.split('.')[0]}.*"))
        raise InputError(f"backbone {info.name!r} is not a timm model: its tag is not one of {known}") from error
    arguments = info.arguments
    try:
        arguments = create_arguments(info)
        return _build(info, arguments)
    except UNSUITABLE as error:
        if arguments.keys() - info.arguments:
            raise InputError(_unsuitable(info, info.image_size, "image_size", error)) from error
        if not info.arguments:  # then nothing given is to blame
            raise
        raise InputError(
            f"timm model {info.name} does not accept backbone_args {info.arguments}: {_line(error)}"
        ) from error


def create_arguments(info: BackboneInfo) -> dict[str, Any]:
    """Return the further arguments of `timm.create_model`: those of `info`, and those for its size of images."""
    return {**size_arguments(info.name, info.arguments, info.image_size), **info.arguments}


def is_fitted_to_small_images(info: BackboneInfo) -> bool:
    """Return whether a network gets the CIFAR stem: not one of fixed size, whose attention would no longer fit."""
    return choose_stem(info.stem, info.image_size) == "cifar" and not has_fixed_size(info.name)


def _build(info: BackboneInfo, arguments: dict[str, Any]) -> nn.Module:
    backbone = timm.create_model(info.name, pretrained=False, num_classes=0, **arguments)
    if is_fitted_to_small_images(info):
        use_cifar_stem(backbone)
    # timm initialises the last BatchNorm weight of each residual branch to 0, torchvision (used for all published
    # results of these methods) to 1. With 0, untrained networks score lower and short runs learn more slowly.
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return backbone


def feature_width(backbone: nn.Module, info: BackboneInfo, image_size: int, setting: str = "image_size") -> int:
    """Return the feature width F, from one forward pass: timm's `num_features` is wrong for MobileNetV3 and VGG.

    Args:
        backbone: built from `info`.
        info: of the backbone.
        image_size: side of the images in pixels.
        setting: the setting that asks for this size, for errors.

    Raises:
        InputError: if the network does not take images of this size, or does not return a vector. The message names
            the nearest sizes that it takes.
    """
    dtype, training = next(backbone.parameters()).dtype, backbone.training
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, len(info.mean), image_size, image_size, dtype=dtype))
    except UNSUITABLE as error:
        raise InputError(_unsuitable(info, image_size, setting, error)) from error
    finally:
        backbone.train(training)
    if features.ndim != 2:
        raise InputError(
            f"backbone {info.name} returns {list(features.shape[1:])} per image, not a vector: choose another "
            "--backbone"
        )
    return int(features.shape[1])


def width_for_training(
    backbone: nn.Module, info: BackboneInfo, image_size: int, setting: str, precision: str, device: str
) -> int:
    """Return the feature width, after a check that gradients will be right.

    In bf16 on a CPU, oneDNN (torch 2.14) leaves a part of the gradient of a convolution with a stride uninitialised if
    its input has one pixel.

    Args:
        backbone, info, image_size, setting: as for `feature_width`.
        precision: of the training.
        device: kind of the device that trains, such as cpu.

    Raises:
        InputError: as `feature_width`, or if gradients would be wrong.
    """
    with inputs_of_strides(backbone) as inputs:
        width = feature_width(backbone, info, image_size, setting)
    if precision.startswith("bf16") and device == "cpu" and (1, 1) in inputs:
        raise InputError(
            f"{setting} {image_size} px: the network reduces them to one pixel before its last stride, for which "
            "gradients in bf16 on a CPU are wrong: take larger ones, or --precision 32-true"
        )
    return width


def _unsuitable(info: BackboneInfo, image_size: int, setting: str, error: Exception) -> str:
    """Return why a network does not take images of a size, and the nearest sizes that it takes."""
    fitted = image_size == info.image_size  # else the network stays as it is built, for another size
    stem = "auto" if info.stem == choose_stem("auto", info.image_size) else info.stem

    def build(size: int) -> nn.Module:
        other = replace(info, image_size=size, stem=stem) if fitted else info
        return _build(other, create_arguments(other))

    sizes, why = nearest_sizes(build, info.name, image_size, len(info.mean)), _line(error).rstrip(".")
    if not sizes:
        given = f" with backbone_args {info.arguments}" if info.arguments else ""
        return f"backbone {info.name}{given} takes images of no size that was tried ({why}): choose another"
    which = "sizes that it takes are" if len(sizes) > 1 else "size that it takes is"
    advice = f"the nearest {which} {' and '.join(map(str, sizes))} px"
    return f"{setting} {image_size} does not suit backbone {info.name} ({why}): {advice}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
    weights, metadata = read_safetensors(Path(path))
    if "adco" not in metadata:
        raise InputError(
            f"{path} has no adco metadata, so its network is unknown: use --backbone NAME --weights {path}"
        )
    if "classes" in metadata:
        raise InputError(f"{path} is a classifier: use adco.load_classifier, or the backbone.safetensors beside it")
    with reading(Path(path), says="does not hold a backbone"):
        info = BackboneInfo(**json.loads(metadata["adco"]))
        return with_weights(info, weights), info


def with_weights(info: BackboneInfo, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a backbone with weights from a file, in eval mode.

    Their shapes are compared first, with the network on the meta device: a description that was edited may be that of
    a network that takes all memory.

    Raises:
        InputError: the weights are not those of the network.
    """
    with torch.device("meta"):
        wanted = build_backbone(info).state_dict()
    counters = "num_batches_tracked"  # of BatchNorm, in training only: frozen stages have none
    for name in sorted(name for name in wanted.keys() | weights.keys() if not name.endswith(counters)):
        shapes = [list(part[name].shape) if name in part else None for part in (weights, wanted)]
        if shapes[0] != shapes[1]:
            found = (
                f"{name} has the shape {shapes[0]}, not {shapes[1]}" if None not in shapes else f"{name} is in one only"
            )
            raise InputError(f"the weights are not those of its network {info.name}: {found}")
    backbone = build_backbone(info)
    backbone.load_state_dict(weights)
    return backbone.eval()
