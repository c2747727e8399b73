"""A network to export: a backbone or a classifier, the images that it takes, and what is built into it.

Shapes: N images, C channels, S side of the images in pixels, F feature width, K classes.
"""

import copy
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import timm
import torch
from torch import Tensor, nn

from adco.models.backbone import BackboneInfo, create_arguments, is_fitted_to_small_images


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network to export.

    Args:
        backbone: maps normalised images [N, C, S, S] to features [N, F]; in eval mode and on the CPU.
        info: describes the backbone.
        image_size: S.
        head: of a classifier: maps the features to logits [N, K]; None for a backbone.
        classes: the K class names, in the order of the logits.
        normalize: whether the exported network takes uint8 pixels and normalises them itself.
        half: whether the exported network has 16-bit weights.
    """

    backbone: nn.Module
    info: BackboneInfo
    image_size: int
    head: nn.Linear | None = None
    classes: tuple[str, ...] = ()
    normalize: bool = False
    half: bool = False

    @property
    def output(self) -> str:
        """What the network gives of images: "features" [N, F] or "logits" [N, K]."""
        return "logits" if self.head else "features"

    @property
    def model(self) -> nn.Module:
        """The network: normalised images → its output."""
        return nn.Sequential(self.backbone, self.head) if self.head else self.backbone

    @property
    def architecture(self) -> str:
        """timm's name of the network, without the tag of timm's own weights."""
        return self.info.name.split(".")[0]

    @property
    def arguments(self) -> dict[str, Any]:
        """Further arguments of `timm.create_model`."""
        return create_arguments(self.info)

    @cached_property
    def has_cifar_stem(self) -> bool:
        """Whether the first layers differ from timm's. Those of VGG, which have no stride, never do."""
        if not is_fitted_to_small_images(self.info):
            return False
        with torch.device("meta"):
            usual = timm.create_model(self.info.name, num_classes=0, **self.arguments)
        return str(usual) != str(self.backbone)

    def program(self) -> nn.Module:
        """Return a module of its own weights with everything built in: images → the output, float32."""
        return Program(self).eval()

    def images(self, count: int) -> Tensor:
        """Return noise that the exported network takes: [count, C, S, S], uint8 pixels or normalised float32."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, len(self.info.mean), self.image_size, self.image_size)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return pixels if self.normalize else _normalize(pixels, *self._statistics())

    def outputs(self, images: Tensor) -> Tensor:
        """Return the network's own output of such images."""
        with torch.no_grad():
            outputs: Tensor = self.model(_normalize(images, *self._statistics()) if self.normalize else images)
        return outputs

    def preprocessing(self) -> dict[str, str]:
        """Return what a file should say of itself: the images that it takes, as words and as JSON."""
        channels, size = len(self.info.mean), self.image_size
        mean, std = ([round(value, 6) for value in values] for values in (self.info.mean, self.info.std))
        normalised = f"float32, (pixels / 255 - mean) / std with mean {mean} and std {std}"
        kind = "uint8, pixels" if self.normalize else normalised
        return {
            "images": f"[N, {channels}, {size}, {size}] {kind}" + (", RGB" if channels == 3 else ""),
            "resize": f"shorter side to {size} * 256 / 224 px (bilinear, antialiased), centre crop of {size} px; "
            f"images of {size} x {size} px as they are",
            "mean": json.dumps(list(self.info.mean)),
            "std": json.dumps(list(self.info.std)),
            self.output: f"[N, {'K' if self.head else 'F'}] float32",
            **({"classes": json.dumps(self.classes)} if self.head else {}),
            "backbone": json.dumps(asdict(self.info)),
        }

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and std of the channels, [C, 1, 1]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.info.mean, self.info.std))
        return mean, std


class Program(nn.Module):
    """A network with its normalisation and precision built in. Input and output are never 16-bit floats."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = copy.deepcopy(network.model)
        self.normalize, self.half_precision = network.normalize, network.half
        if network.half:
            self.model.half()
        mean, std = network._statistics()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        if self.normalize:
            images = _normalize(images, self.mean, self.std)
        if self.half_precision:
            images = images.half()
        outputs: Tensor = self.model(images)
        return outputs.float()


def _normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (pixels.float() / 255 - mean) / std
