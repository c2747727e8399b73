"""Resolve settings: choose a value for every unset one, depending on the images, the run's length and the devices."""

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.util import find_spec
from typing import Any, cast

from adco.config import defaults
from adco.config.channels import of_channels
from adco.config.networks import is_transformer
from adco.config.pretrain import Devices, Given, PretrainSettings, Resolved, RunLength
from adco.config.topics import HardwareSettings
from adco.config.weights import known_backbone, stem_with_weights
from adco.data.sources.protocol import Source
from adco.devices import best_precision, can_sync_batch_norm, cores, count_processes, placement
from adco.errors import InputError
from adco.words import counted

MOST_WORKERS = 16  # per process; 16 workers make views of 4 000 photographs per second


def resolve(settings: Given, source: Source) -> Resolved:
    """Resolve every unset setting to a concrete value.

    Raises:
        InputError: if the images are too few or too small for the settings, or the batch cannot be divided equally
            among the devices.
        TypeError: if the method chooses no value for a setting that is not given, which is a mistake in the method.
    """
    resolved = _resolve_for_devices(resolve_for_images(settings, source), source)
    for name in _unset(resolved):
        raise TypeError(f"{name} has no value: it is not given, and {type(settings).__name__}.choose returns no value")
    return cast(Resolved, resolved)


def as_resolved(settings: Given) -> Resolved:
    """Return the settings of a run's config.yaml, typed as resolved, after a check that none is unset.

    Raises:
        InputError: if a setting is unset.
    """
    for name in _unset(settings):
        raise InputError(f"the run's config.yaml has no value for {name}: it is damaged or was edited")
    return cast(Resolved, settings)


def for_devices(settings: Resolved, source: Source) -> Resolved:
    """Return the settings of a resumed run for the present devices, which may be others than when it began.

    Raises:
        InputError: if the batch cannot be divided equally among the devices, or the method is not possible on them.
    """
    return cast(Resolved, _resolve_for_devices(cast(Given, settings), source))


def _unset(settings: Given) -> list[str]:
    return [field.name for field in fields(settings) if getattr(settings, field.name) is None]


def resolve_for_images(settings: Given, source: Source) -> Given:
    """Resolve every unset setting that does not depend on the machine.

    Raises:
        InputError: if the images are too few or too small for the settings.
    """
    if len(source) < 2:
        raise InputError(f"{source.name} has only one image: pretraining needs at least two")
    batch_size = settings.batch_size or defaults.batch_size(len(source))
    if len(source) < batch_size:
        raise InputError(
            f"batch_size {batch_size} is more than the {len(source)} images of {source.name}: "
            f"try --batch_size {defaults.batch_size(len(source))}"
        )
    run = RunLength(images=len(source), batch_size=batch_size, epochs=settings.epochs)
    image_size = settings.image_size or default_image_size(source)
    _warn_of_enlargement(image_size, source)
    known = known_backbone(settings.weights, settings.backbone) if settings.weights else {}
    backbone = settings.backbone or known.get("backbone", defaults.BACKBONE)
    optimization = _optimization(settings, run, backbone)
    of_network_input = of_channels(settings, source, known)
    chosen = {
        "backbone": backbone,
        **of_network_input,
        "batch_size": batch_size,
        "image_size": image_size,
        "test_image_size": image_size,
        "channels_last": True,
        "log_every": defaults.log_every(run.steps),
        "checkpoint_every": run.steps_per_epoch,
        "fixed_patches": is_transformer(backbone) and optimization["optimizer"] == "adamw" and not settings.weights,
        **optimization,
        **settings.choose(run),
    }
    stem = stem_with_weights(settings.stem, known) if settings.weights else settings.stem
    settings = replace(
        _unless_set(settings, chosen),
        backbone_args=of_network_input["backbone_args"],
        stem=defaults.choose_stem(stem, image_size),
    )
    for size, *_ in settings.further_crops:
        if size > image_size:
            raise InputError(f"small_crops has a size of {size}: it must be at most image_size {image_size}")
    return settings


def _optimization(settings: Given, run: RunLength, backbone: str) -> dict[str, Any]:
    """Choose the optimizer, and the learning rate, warm-up and weight decay that go with it.

    The learning rates of SGD, LARS and AdamW are published for a batch of 256 images and are scaled in proportion to
    the batch size. Muon's is the same for every batch size.
    """
    transformer = is_transformer(backbone)
    optimizer = settings.optimizer or defaults.optimizer(settings.OPTIMIZER, run.images_seen, transformer=transformer)
    scale, decay = run.batch_size / 256, PretrainSettings.WEIGHT_DECAY
    if optimizer == "muon":
        rate = settings.MUON_LEARNING_RATE * (defaults.TRANSFORMER_MUON if transformer else 1)
        warmup_epochs = min(1.0, run.epochs / 20)
    elif optimizer == "adamw":
        rate, warmup_epochs = defaults.ADAMW_RATE * scale, defaults.adamw_warmup(run.epochs)
        decay = defaults.ADAMW_DECAY
    else:
        rate, warmup_epochs = settings.LEARNING_RATE * scale, min(settings.WARMUP_EPOCHS, run.epochs / 10)
    if optimizer == settings.OPTIMIZER:
        decay = settings.WEIGHT_DECAY
    learning_rate = settings.learning_rate or rate
    return {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "backbone_rate": defaults.ADAPTING_RATE if settings.weights and not settings.continue_method else 1.0,
        "final_learning_rate": learning_rate * settings.FINAL_LEARNING_RATE_FACTOR,
        "warmup_epochs": warmup_epochs,
        "weight_decay": decay,
    }


def _resolve_for_devices(settings: Given, source: Source) -> Given:
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise InputError("tensorboard true needs the package tensorboard: pip install tensorboard")
    processes, nodes = processes_of(settings), placement(settings.devices, settings.num_nodes)[1]
    share = images_per_forward(settings, processes)
    devices = Devices(
        processes=processes, images_per_forward=share, can_sync_batch_norm=can_sync_batch_norm(settings.accelerator)
    )
    settings = _unless_set(settings, {"workers": default_workers(source, processes // nodes)})
    if settings.precision == "auto":
        settings = replace(settings, precision=best_precision(settings.accelerator))
    return replace(settings, **settings.choose_for_devices(devices))


def images_per_forward(settings: Given, processes: int) -> int:
    """Return the number of images in a forward pass on one device, of settings resolved for the images.

    Args:
        settings: with a batch size.
        processes: that train together, one per device.

    Raises:
        InputError: if the images of a step cannot be divided equally among forward passes, or it is one image for each.
    """
    assert settings.batch_size is not None
    share, rest = divmod(settings.batch_size, processes * settings.accumulate)
    if rest:
        raise InputError(
            f"batch_size {settings.batch_size} must be a multiple of devices x nodes x accumulate, here "
            f"{processes * settings.accumulate}"
        )
    if share < 2:
        raise InputError(
            f"batch_size {settings.batch_size} leaves {counted(share, 'image')} for a forward pass on one device: "
            f"it must be at least {2 * processes * settings.accumulate}, because a forward pass compares two images"
        )
    return share


def processes_of(settings: HardwareSettings[Any]) -> int:
    """Return how many processes will train together.

    Raises:
        InputError: if such devices are not available.
    """
    return count_processes(settings.accelerator, settings.devices, settings.num_nodes)


def _unless_set(settings: Given, chosen: Mapping[str, Any]) -> Given:
    """Return the settings with `chosen` filled in where they are unset."""
    return replace(settings, **{name: value for name, value in chosen.items() if getattr(settings, name) is None})


def _warn_of_enlargement(image_size: int, source: Source) -> None:
    if image_size > source.shorter_side:
        warnings.warn(
            f"image_size {image_size} is larger than the images of {source.name}, whose median shorter side is "
            f"{source.shorter_side} px: they are enlarged",
            stacklevel=4,
        )
    elif source.smallest_side < image_size:
        warnings.warn(
            f"some images of {source.name} are smaller than image_size {image_size} and are enlarged; "
            f"the smallest has a side of {source.smallest_side} px",
            stacklevel=4,
        )


def default_image_size(source: Source) -> int:
    """Return the median of the images' shorter sides, at most 224.

    A median above 64 px is rounded down to a multiple of 32, because most CNNs halve the size of an image five times.
    """
    side = source.shorter_side
    return side if side <= defaults.SMALL_IMAGE else min(224, side // 32 * 32)


def default_workers(source: Source, processes: int) -> int:
    """Return the number of loader workers of a process: the machine's cores are divided among its processes."""
    if source.in_memory:
        return 0
    return min(MOST_WORKERS, max(1, cores() // max(1, processes)))
