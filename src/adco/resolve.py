"""From settings as given to settings as used: unset ones are chosen for the images and the device."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, TypeVar

import lightning as L
import torch

from adco import defaults
from adco.data.sources import ArraySource, Source
from adco.encoder import SMALL_IMAGE, choose_stem
from adco.quiet import quiet_lightning
from adco.settings import (
    AdCoSettings,
    BatchNorm,
    BYOLSettings,
    MoCoSettings,
    Precision,
    PretrainSettings,
    QueryKeySettings,
    known,
)

AnySettings = TypeVar("AnySettings", bound=PretrainSettings)


def resolve(settings: AnySettings, source: Source) -> AnySettings:
    """Resolve every unset setting to a concrete value.

    Raises:
        ValueError: if the images are too few or too small for the settings, or the devices do not divide the batch.
    """
    return _for_device(resolve_for_images(settings, source), source)


def resolve_for_images(settings: AnySettings, source: Source) -> AnySettings:
    """Resolve every unset setting that does not depend on the machine.

    Raises:
        ValueError: if the images are too few or too small for the settings.
    """
    images = len(source)
    settings = _unless_given(settings, batch_size=defaults.batch_size(images))
    batch_size = known(settings.batch_size)
    if images < batch_size:
        raise ValueError(
            f"batch_size {batch_size} is more than the {images} images of {source.name}: "
            f"try --batch_size {defaults.batch_size(images)}"
        )
    steps_per_epoch = images // batch_size
    steps, seen = settings.epochs * steps_per_epoch, settings.epochs * images
    settings = _unless_given(settings, optimizer=defaults.optimizer(settings.OPTIMIZER, seen))
    settings = _unless_given(settings, learning_rate=_learning_rate(settings))
    image_size = _image_size(settings, source)
    settings = _fill_in(settings, {"stem": choose_stem(settings.stem, image_size)})
    settings = _unless_given(
        settings,
        image_size=image_size,
        test_image_size=image_size,
        final_learning_rate=known(settings.learning_rate) * settings.FINAL,
        warmup_epochs=_warmup_epochs(settings),
        weight_decay=settings.DECAY if settings.optimizer == settings.OPTIMIZER else PretrainSettings.DECAY,
        channels_last=True,
        log_every=_log_every(steps),
        checkpoint_every=steps_per_epoch,
    )
    return _for_method(settings, images, steps, seen)


def _learning_rate(settings: PretrainSettings) -> float:
    """The published rate, in proportion to the batch, of SGD and LARS; Muon's is the same for every batch."""
    return settings.MUON_RATE if settings.optimizer == "muon" else settings.RATE * known(settings.batch_size) / 256


def _warmup_epochs(settings: PretrainSettings) -> float:
    if settings.optimizer == "muon":
        return min(1.0, settings.epochs / 20)
    return min(settings.WARMUP, settings.epochs / 10)


def _for_method(settings: AnySettings, images: int, steps: int, seen: int) -> AnySettings:
    """Resolve what one method or some have, for a run of so many steps that sees so many images over all epochs."""
    if isinstance(settings, QueryKeySettings):
        ema_decay = defaults.ema_decay(steps, published=0.999)
        settings = _unless_given(settings, ema_decay=ema_decay, projector_norm=defaults.is_short(seen))
    if isinstance(settings, BYOLSettings):
        settings = _unless_given(settings, ema_decay=defaults.ema_decay(steps, published=0.996))
    if isinstance(settings, MoCoSettings):
        settings = _unless_given(settings, queue=min(65_536, defaults.power_of_two(images)))
    if isinstance(settings, AdCoSettings):
        settings = _unless_given(settings, adversaries=defaults.adversaries(images, known(settings.batch_size), seen))
        settings = _unless_given(
            settings,
            temperature=defaults.temperature(seen),
            adversary_temperature=defaults.adversary_temperature(seen),
            adversary_learning_rate=defaults.adversary_learning_rate(known(settings.adversaries), seen),
        )
    return settings


def _log_every(steps: int) -> int:
    """Steps between records: 200 a run, so that ten fall into its first twentieth, and at most 20 apart."""
    return min(20, max(1, steps // 200))


def _for_device(settings: AnySettings, source: Source) -> AnySettings:
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise ValueError("tensorboard true needs the package tensorboard: pip install tensorboard")
    processes = count_processes(settings)
    share, rest = divmod(known(settings.batch_size), processes * settings.accumulate)
    if rest:
        raise ValueError(
            f"batch_size {settings.batch_size} must be a multiple of devices x nodes x accumulate, here "
            f"{processes * settings.accumulate}"
        )
    if share < 2:
        raise ValueError(
            f"batch_size {settings.batch_size} leaves {share} image to each device and accumulated batch: "
            f"it must be at least {2 * processes * settings.accumulate}, as contrast needs two"
        )
    chosen: dict[str, Any] = {
        "workers": default_workers(source, processes // settings.num_nodes) if settings.workers is None else None,
        "precision": _precision(settings.accelerator) if settings.precision == "auto" else None,
    }
    if isinstance(settings, QueryKeySettings):
        batch_norm = _batch_norm(settings.batch_norm, settings.accelerator, processes)
        wanted = settings.split_groups or defaults.split_groups(share)
        # A group of one image has no variance.
        groups = max(1, min(wanted, share // 2)) if batch_norm == "split" else 1
        chosen |= {"batch_norm": batch_norm, "split_groups": groups}
    return _fill_in(settings, chosen)


def _unless_given(settings: AnySettings, **chosen: Any) -> AnySettings:
    """These values for the settings that are None."""
    return replace(settings, **{name: value for name, value in chosen.items() if getattr(settings, name) is None})


def _fill_in(settings: AnySettings, chosen: Mapping[str, Any]) -> AnySettings:
    """What is chosen, and for None what is there already."""
    return replace(settings, **{name: value for name, value in chosen.items() if value is not None})


def _image_size(settings: PretrainSettings, source: Source) -> int:
    size = settings.image_size or default_image_size(source)
    if size > source.shorter_side:
        warnings.warn(
            f"image_size {size} is larger than the images of {source.name}, whose shorter side is "
            f"{source.shorter_side} px in the median: they are enlarged",
            stacklevel=4,
        )
    elif source.smallest_side < size:
        warnings.warn(
            f"some images of {source.name} are smaller than image_size {size} and are enlarged; "
            f"the smallest has a side of {source.smallest_side} px",
            stacklevel=4,
        )
    for crop, *_ in settings.small_crops if isinstance(settings, AdCoSettings) else ():
        if crop > size:
            raise ValueError(f"small_crops has a size of {crop}: it must be at most image_size {size}")
    return size


def default_image_size(source: Source) -> int:
    """The images' shorter side in the median up to 64 px; above, the next multiple of 32 below it, at most 224.

    Most CNNs halve an image five times: 32 px are one pixel of their last feature map.
    """
    side = source.shorter_side
    return side if side <= SMALL_IMAGE else min(224, side // 32 * 32)


def _batch_norm(choice: BatchNorm, accelerator: str, processes: int) -> BatchNorm:
    if choice == "shuffle" and processes == 1:
        raise ValueError("batch_norm shuffle needs more than one device: take split, or leave it auto")
    if choice == "sync" and processes > 1 and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError("batch_norm sync over several devices needs GPUs: take shuffle, or leave it auto")
    if choice == "auto":
        return "shuffle" if processes > 1 else "split"
    return choice


def count_processes(settings: PretrainSettings) -> int:
    """How many processes will train: torchrun says it, else Lightning counts the devices."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    try:
        with quiet_lightning():
            trainer = L.Trainer(
                accelerator=settings.accelerator,
                devices=settings.devices,
                num_nodes=settings.num_nodes,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
            )
    except Exception as error:  # Lightning has an exception for each kind of mismatch
        chosen = f"accelerator {settings.accelerator} with devices {settings.devices}"
        raise ValueError(f"{chosen} is not available here: {' '.join(str(error).split())}") from error
    return int(trainer.world_size)


def training_device(settings: PretrainSettings) -> torch.device:
    """Where this process will train."""
    if settings.accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if settings.accelerator not in ("cpu", "gpu") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def default_workers(source: Source, processes: int) -> int:
    """One a core, shared by the processes of a node: 16 make views of 4 000 photographs a second."""
    if isinstance(source, ArraySource):
        return 0  # views of images in memory take less time than handing them from process to process
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // max(1, processes)))


def _precision(accelerator: str) -> Precision:
    """bf16 where the hardware multiplies it: a CPU without such instructions is half as fast in it."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return "32-true"
    supported = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return "bf16-mixed" if any(ask() for ask in supported if ask) else "32-true"
