"""The CIFAR stem: the first layers of a CNN, adapted to small images."""

import re
from collections.abc import Mapping

from timm.layers.blur_pool import BlurPool2d
from torch import nn

LARGEST_STRIDE = 4  # of a CNN's stem; convolutions with a larger stride are patch embeddings


def use_cifar_stem(backbone: nn.Module) -> None:
    """Adapt the first layers of a CNN to small images, in place.

    The stem is what timm calls so: the layers before the first block (`group_matcher`). A single 7×7 convolution of
    stride 2 followed by a max-pool, as in ResNets, becomes a 3×3 convolution of stride 1 without the max-pool (He et
    al. 2016, section 4.2). In all other stems, including the deep ones of ResNet-D, the kernels stay, the strides
    become 1 and pooling layers are removed. Networks whose stem has no stride, such as VGG, and networks without a stem
    are left unchanged.
    """
    conv = getattr(backbone, "conv1", None)
    if isinstance(conv, nn.Conv2d) and isinstance(getattr(backbone, "maxpool", None), nn.Module):
        backbone.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
        return
    pattern = _stem_pattern(backbone)
    for name, module in list(backbone.named_modules()):
        if pattern and re.match(pattern, name):
            _remove_stride(backbone, name, module)


def _stem_pattern(backbone: nn.Module) -> str:
    """Return timm's regular expression for the names of the stem's layers; empty if it has none."""
    matcher = getattr(backbone, "group_matcher", None)
    groups = matcher(coarse=True) if matcher else {}
    pattern = groups.get("stem") if isinstance(groups, Mapping) else None
    return pattern if isinstance(pattern, str) else ""


def _remove_stride(backbone: nn.Module, name: str, module: nn.Module) -> None:
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d | BlurPool2d):
        backbone.set_submodule(name, nn.Identity())
    elif isinstance(module, nn.Conv2d) and 1 < max(module.stride) <= LARGEST_STRIDE:
        if module.kernel_size == module.stride:  # ConvNeXt: its patches overlap at stride 1, so pad
            module.padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)
        module.stride = (1, 1)
