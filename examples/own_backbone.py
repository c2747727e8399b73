"""A backbone of your own: any module that returns one vector per image, registered with timm.

python examples/own_backbone.py
"""

from typing import Any

from timm.models import register_model
from torch import nn

import adco


@register_model  # its name is then a value of `backbone`, in this process
def small_cnn(pretrained: bool = False, num_classes: int = 0, width: int = 32, **_: Any) -> nn.Module:
    """Return a network for images of any size; `width` can be set by `backbone_args`."""
    layers: list[nn.Module] = []
    for number, channels in enumerate((width, 2 * width, 4 * width)):
        before = 3 if number == 0 else channels // 2
        layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


if __name__ == "__main__":
    run = adco.pretrain(data="digits", backbone="small_cnn", backbone_args={"width": 16}, epochs=10)
    print(adco.evaluate("knn", run)["top1"])
    backbone, info = adco.load_backbone(run / "backbone.safetensors")
