"""The sizes of images that a network takes.

CNNs take images of almost any size. timm builds transformers, and some networks with attention, for one size, which
`img_size` sets. Some of them can then take other sizes too, if `dynamic_img_size` is set: they resample their position
embeddings in each forward pass.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

STEPS = (8, 14)  # in pixels; their multiples are tried: networks halve images, and patches have 8, 14, 16 or 32 px
# What networks raise for images, or arguments, that do not suit them.
UNSUITABLE = (TypeError, RuntimeError, ValueError, LookupError, AssertionError, AttributeError, ArithmeticError)


def has_fixed_size(name: str) -> bool:
    """Return whether timm builds a network for one size of images; False if timm does not know."""
    config = get_pretrained_cfg(name)
    return config is not None and bool(config.fixed_input_size)


def size_arguments(name: str, given: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` with which a network takes images of this size.

    Args:
        name: of the timm model.
        given: arguments that are given anyway; they take precedence.
        image_size: side of the images in pixels.

    Returns:
        `img_size` and `dynamic_img_size`, if the network has a fixed size and these arguments; none for CNNs.
    """
    if not has_fixed_size(name):
        return {}
    with torch.device("meta"):  # without memory for the weights: only the class is needed
        accepted = _arguments(type(timm.create_model(name, num_classes=0, **given)))
    wanted = {"img_size": image_size, "dynamic_img_size": True}
    return {argument: value for argument, value in wanted.items() if argument in accepted and argument not in given}


def _arguments(kind: type[nn.Module]) -> set[str]:
    """Return the arguments of a class, also those that it hands on to the class it inherits from."""
    names: set[str] = set()
    for parent in kind.__mro__:
        parameters = inspect.signature(parent.__init__).parameters  # type: ignore[misc]
        names |= parameters.keys()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def nearest_sizes(build: Callable[[int], nn.Module], name: str, image_size: int, channels: int) -> list[int]:
    """Return the nearest smaller and the nearest larger size that a network takes, of the multiples of 8 and 14 pixels.

    They are found by trial, without memory or computation (on torch's meta device).

    Args:
        build: returns the network for images of a size.
        name: of the timm model; the size that it was published with is tried, too.
        image_size: the size that it does not take.
        channels: of the images.
    """
    config = get_pretrained_cfg(name)
    usual = config.input_size[-1] if config is not None else image_size
    sizes = sorted({usual, *(size for step in STEPS for size in range(step, max(image_size, usual) + 33, step))})
    smaller = _first(build, channels, [size for size in reversed(sizes) if size < image_size])
    larger = _first(build, channels, [size for size in sizes if size > image_size])
    return smaller + larger


def _first(build: Callable[[int], nn.Module], channels: int, sizes: Iterable[int]) -> list[int]:
    return next(([size] for size in sizes if _takes(build, channels, size)), [])


def _takes(build: Callable[[int], nn.Module], channels: int, size: int) -> bool:
    try:
        with torch.device("meta"), torch.no_grad():
            features = build(size).eval()(torch.zeros(1, channels, size, size))
    except UNSUITABLE:
        return False
    return bool(features.ndim == 2)


@contextmanager
def inputs_of_strides(network: nn.Module) -> Iterator[set[tuple[int, ...]]]:
    """Yield the heights and widths of what convolutions with a stride get, as they are called in the block."""
    found: set[tuple[int, ...]] = set()
    strided = [part for part in network.modules() if isinstance(part, nn.Conv2d) and max(part.stride) > 1]
    hooks = [
        part.register_forward_pre_hook(lambda module, inputs: found.add(tuple(inputs[0].shape[-2:])))
        for part in strided
        if max(part.kernel_size) > 1
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
