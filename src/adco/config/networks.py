"""What is known of a network before it is built: by its name from timm, and by its description in a file."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from adco.config.defaults import BACKBONE
from adco.config.topics import LARGEST, Stem
from adco.errors import InputError

MOST_ARGUMENT = 65_536  # of any number in backbone_args; with larger ones, building the network takes all memory


def is_transformer(backbone: str) -> bool:
    """Return whether a timm network is a vision transformer.

    Its first layer is then a patch embedding, and it is built for one size of images. ViT, DeiT, BEiT, EVA, Swin, CaiT
    and XCiT are; networks that begin with convolutions are not, whether or not attention follows. False for unknown
    names.
    """
    if backbone == BACKBONE:
        return False  # without importing timm, which takes seconds
    from timm.models import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(backbone)
    except RuntimeError:  # an unknown tag; building the network will tell
        return False
    if config is None or not config.fixed_input_size:
        return False
    first = config.first_conv if isinstance(config.first_conv, str) else (config.first_conv or ("",))[0]
    return first.startswith("patch_embed")


def check_network(
    *, backbone: Any, image_size: Any, mean: Any, std: Any, backbone_args: Any, stem: Any = "auto"
) -> None:
    """Check the description of a network, which may be from a file that was edited.

    Raises:
        InputError: names the first part that is impossible, and its value.
    """
    wrong = {
        "backbone": not isinstance(backbone, str),
        "image_size": type(image_size) is not int or not 1 <= image_size <= LARGEST,
        "mean": not _are_numbers(mean, -math.inf),
        "std": not _are_numbers(std, 0),
        "backbone_args": not isinstance(backbone_args, Mapping) or not _are_arguments(backbone_args),
        "stem": not isinstance(stem, str) or stem not in get_args(Stem),
    }
    for name, value in (
        *(("backbone", backbone), ("image_size", image_size), ("mean", mean), ("std", std)),
        *(("backbone_args", backbone_args), ("stem", stem)),
    ):
        if wrong[name]:
            raise InputError(f"{name} {value!r:.80} does not describe a network")
    if len(mean) != len(std):
        raise InputError(f"mean has {len(mean)} values and std {len(std)}: they must have as many")


def _are_numbers(values: Any, above: float) -> bool:
    if not isinstance(values, list | tuple) or not values:
        return False
    return all(type(value) in (int, float) and above < value < math.inf for value in values)


def _are_arguments(given: Any) -> bool:
    """Return whether all numbers are of a usual size, and all names are text."""
    if isinstance(given, Mapping):
        return all(isinstance(name, str) and _are_arguments(value) for name, value in given.items())
    if isinstance(given, list | tuple):
        return all(map(_are_arguments, given))
    return not isinstance(given, int | float) or abs(given) <= MOST_ARGUMENT
