"""Freeze the first stages of a backbone: neither their weights nor their BatchNorm statistics change any more."""

from typing import Any

from timm.layers.norm_act import freeze_batch_norm_2d
from timm.models import group_parameters
from torch import nn

from adco.errors import InputError


def freeze(backbone: nn.Module, stages: int, name: str) -> None:
    """Freeze the first stages of a timm network, in place.

    Stages are timm's coarse parameter groups: of a ResNet the stem, layer1, layer2, …; of a vision transformer the
    patch embedding and then each block.

    Args:
        backbone: the network. The frozen BatchNorm layers are replaced, so freeze before copying it.
        stages: number of stages to freeze.
        name: of the network, for errors.

    Raises:
        InputError: if the network has no more stages than that, its stages are unknown, or they contain BatchNorm1d.
    """
    if not stages:
        return
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise InputError(f"freeze {stages} is not possible: timm does not know the stages of backbone {name}")
    groups = group_parameters(backbone, matcher(coarse=True))
    if stages >= len(groups):
        raise InputError(f"freeze {stages} must be at most {len(groups) - 1}: backbone {name} has {len(groups)} stages")
    frozen = {parameter for group in sorted(groups)[:stages] for parameter in groups[group]}
    modules = [(path, module) for path, module in backbone.named_modules() if f"{path}.weight" in frozen]
    if any(isinstance(module, nn.BatchNorm1d) for _, module in modules):
        raise InputError(f"freeze {stages} is not possible: backbone {name} has BatchNorm1d in these stages")
    for parameter in frozen:
        backbone.get_parameter(parameter).requires_grad_(False)
    for path, module in modules:
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            backbone.set_submodule(path, freeze_batch_norm_2d(module))  # type: ignore[no-untyped-call]


def fix_patches(backbone: nn.Module, name: str) -> None:
    """Freeze the first layer of a timm network, the patch projection of a vision transformer, in place.

    Args:
        backbone: the network.
        name: of the network, for errors.

    Raises:
        InputError: if timm does not know the first layer.
    """
    config: Any = getattr(backbone, "pretrained_cfg", {})
    layers = config.get("first_conv") or ()
    if not layers:
        raise InputError(f"fixed_patches true is not possible: timm does not know the first layer of backbone {name}")
    for layer in (layers,) if isinstance(layers, str) else layers:
        backbone.get_submodule(layer).requires_grad_(False)
