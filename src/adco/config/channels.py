"""The settings that follow from the number of channels: mean and std, and the first layer of the backbone."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from adco.config.pretrain import Given
from adco.data.damage import load_or_next
from adco.data.sources.chosen import sample
from adco.data.sources.protocol import Source
from adco.errors import InputError
from adco.words import counted

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green and blue, in [0, 1]
DARK = 16  # of 255; the white of 12 bits, if the white of 16 bits is expected
LEAST_STD = 1 / 255  # of a channel; one that is the same everywhere has none


def of_channels(settings: Given, source: Source, known: Mapping[str, Any]) -> dict[str, Any]:
    """Choose mean, std and backbone_args.

    Args:
        settings: as given.
        source: the images; those of other than three channels are sampled for their mean and std.
        known: of the weights to start from; see `known_backbone`.

    Raises:
        InputError: the images or the settings have another number of channels.
    """
    channels = settings.channels
    found = next(iter(load_or_next(source, np.array([0]), {}))).shape[2]
    if found != channels:
        raise InputError(f"images of {source.name} have {counted(found, 'channel')}, but channels is {channels}")
    for name in ("mean", "std"):
        values = getattr(settings, name)
        if values is not None and len(values) != channels:
            raise InputError(f"{name} {list(values)} must have {counted(channels, 'value')}: one for each channel")
    arguments = dict(known.get("backbone_args", {}) if settings.backbone_args is None else settings.backbone_args)
    if arguments.get("in_chans", channels) != channels:
        raise InputError(f"backbone_args has in_chans {arguments['in_chans']}, but channels is {channels}")
    if channels != 3:
        arguments["in_chans"] = channels
    mean, std = (tuple(known.get(name, ())) for name in ("mean", "std"))
    if len(mean) != channels or len(std) != channels:
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else _statistics(source)
    return {"mean": mean, "std": std, "backbone_args": arguments}


def _statistics(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel in some images, in [0, 1]; each image counts the same."""
    means, squares, largest = [], [], 0
    for image in load_or_next(source, np.asarray(sample(len(source))), {}):
        values = image.reshape(-1, image.shape[-1]) / 255  # [H · W, C]
        means.append(values.mean(0))
        squares.append((values**2).mean(0))
        largest = max(largest, int(image.max()))
    if largest <= DARK:
        warnings.warn(
            f"images of {source.name} are nearly black (at most {largest} of 255): if they have 12 bits, give "
            "--white_level 4095",
            stacklevel=5,
        )
    mean = np.mean(means, 0)
    std = np.sqrt(np.maximum(np.mean(squares, 0) - mean**2, LEAST_STD**2))
    rounded = [tuple(round(float(value), 4) for value in values) for values in (mean, std)]
    return rounded[0], rounded[1]
