"""From settings as given to settings as used: what is left open is chosen for the images and the device."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, TypeVar

import lightning as L
import torch

from adco.data.sources import ArraySource, Source
from adco.settings import AdCoSettings, BatchNorm, MoCoSettings, Precision, PretrainSettings, QueryKeySettings

AnySettings = TypeVar("AnySettings", bound=PretrainSettings)


def resolve(settings: AnySettings, source: Source) -> AnySettings:
    """Put a value in the place of every None and auto.

    Raises:
        ValueError: if the images are too few or too small for the settings, or the devices do not divide the batch.
    """
    return _for_device(resolve_for_images(settings, source), source)


def resolve_for_images(settings: AnySettings, source: Source) -> AnySettings:
    """The same for all that the machine has no say in.

    Raises:
        ValueError: if the images are too few or too small for the settings.
    """
    most = 1 << (len(source).bit_length() - 1)  # the largest power of two that the images fill
    if len(source) < settings.batch_size:
        raise ValueError(
            f"batch_size {settings.batch_size} is more than the {len(source)} images of {source.name}: "
            f"try --batch_size {most}"
        )
    image_size = _image_size(settings, source)
    rate = settings.RATE * settings.batch_size / 256 if settings.learning_rate is None else settings.learning_rate
    chosen: dict[str, Any] = {
        "image_size": image_size,
        "test_size": settings.test_size or image_size,
        "learning_rate": rate,
        "final_learning_rate": rate * settings.FINAL if settings.final_learning_rate is None else None,
        "warmup_epochs": min(settings.WARMUP, settings.epochs / 10) if settings.warmup_epochs is None else None,
        "channels_last": True if settings.channels_last is None else None,
        "checkpoint_every": len(source) // settings.batch_size if settings.checkpoint_every is None else None,
    }
    if isinstance(settings, AdCoSettings) and settings.adversaries is None:
        chosen["adversaries"] = min(8192, most)
    if isinstance(settings, MoCoSettings) and settings.queue is None:
        chosen["queue"] = min(65_536, most)
    return _fill_in(settings, chosen)


def _for_device(settings: AnySettings, source: Source) -> AnySettings:
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise ValueError("tensorboard true needs a package that is not here: pip install tensorboard")
    processes = count_processes(settings)
    share, rest = divmod(settings.batch_size, processes * settings.accumulate)
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
        # A group of one image has no variance.
        groups = max(1, min(settings.split_groups, share // 2)) if batch_norm == "split" else 1
        chosen |= {"batch_norm": batch_norm, "split_groups": groups}
    return _fill_in(settings, chosen)


def _fill_in(settings: AnySettings, chosen: Mapping[str, Any]) -> AnySettings:
    """What is chosen, and for None what is there already."""
    return replace(settings, **{name: value for name, value in chosen.items() if value is not None})


def _image_size(settings: PretrainSettings, source: Source) -> int:
    size = settings.image_size or min(224, source.shorter_side)
    if size > source.shorter_side:
        raise ValueError(
            f"image_size {size} is larger than the images of {source.name}, whose shorter side is "
            f"{source.shorter_side} px in the median: try --image_size {source.shorter_side}"
        )
    if source.smallest_side < size:
        warnings.warn(
            f"some images of {source.name} are smaller than image_size {size} and are enlarged; "
            f"the smallest has a side of {source.smallest_side} px",
            stacklevel=4,
        )
    for crop, *_ in settings.small_crops if isinstance(settings, AdCoSettings) else ():
        if crop > size:
            raise ValueError(f"small_crops has a size of {crop}: it must be at most image_size {size}")
    return size


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
        raise ValueError(f"{chosen} is not to be had here: {' '.join(str(error).split())}") from error
    return int(trainer.world_size)


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
