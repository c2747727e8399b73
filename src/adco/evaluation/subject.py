"""What a command works on: a backbone, of a run or by name, and images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adco.config.commands import SubjectSettings
from adco.config.resolve import default_image_size
from adco.data.sources.protocol import Source
from adco.data.sources.reading import RGB, Reading
from adco.devices import evaluation_device, evaluation_processes
from adco.errors import InputError, same_in_all_processes
from adco.evaluation.backbones import named_backbone, run_backbone, run_of
from adco.launcher import announce_launch, forget_launch
from adco.models.backbone import BackboneInfo, feature_width
from adco.ranks import Group, together
from adco.runs.directory import RunDirectory, newest_run
from adco.untrusted import reading

OpenImages = Callable[[str, int, float, Reading], Sequence[Source]]


@dataclass(frozen=True)
class Subject:
    """A backbone, and the images to use it on.

    Args:
        backbone: maps images [B, C, S, S] to features [B, F].
        info: describes the backbone; its mean and std normalise the images.
        image_size: S, side of the images in pixels, as the backbone sees them.
        data: the data as given, or that of the run.
        class_level: level of the folders that are the classes; 0 if it was not given.
        sources: the images, as they were opened.
        max_unreadable: share of images that may be left out because they cannot be read, 0 to 1.
        run: the run whose backbone it is; None for a timm network.
    """

    backbone: nn.Module
    info: BackboneInfo
    image_size: int
    data: str
    class_level: int
    sources: tuple[Source, ...]
    max_unreadable: float
    run: RunDirectory | None


def open_subject(settings: SubjectSettings, run: Path | None, open_images: OpenImages) -> Subject:
    """Load a backbone and open images.

    Args:
        settings: name the images and, if it is not that of a run, the backbone.
        run: run directory, checkpoint or backbone.safetensors. If None, the network named by the settings is used or,
            if they name none, the newest run.
        open_images: opens sources, from data, class level, max_unreadable and the way images are read. The image size
            of a network by name is chosen for the first source.

    Raises:
        InputError: a backbone or data cannot be opened, or the network does not take images of this size.
    """
    return (_of_name if settings.names_backbone else _of_run)(settings, run, open_images)


@contextmanager
def shared_subject(
    settings: SubjectSettings, run: Path | None, open_images: OpenImages, devices: int | str
) -> Iterator[tuple[Subject, str, Group]]:
    """Load a backbone and open images, and run the block in the processes that use them together.

    Args:
        settings, run, open_images: as for `open_subject`.
        devices: auto, or the number of processes; those of a launcher take the place of 1.

    Yields:
        The subject, the device of this process, and the processes.

    Raises:
        InputError: as `open_subject`, or if there are no such devices.
        ProcessLost: if the connection to another process is lost.
    """
    device = evaluation_device(settings.device)
    with same_in_all_processes():
        processes = evaluation_processes(settings.device, devices)
        if processes > 1:
            announce_launch()  # so that one process lists the images for all
        subject = open_subject(settings, run, open_images)
    try:
        with together(processes, torch.device(device).type) as group:
            yield subject, device, group
    finally:
        forget_launch()


def _of_run(settings: SubjectSettings, path: Path | None, open_images: OpenImages) -> Subject:
    """Return a run's backbone, with the data that the settings name or, if they name none, the run's own data."""
    run = newest_run() if path is None else run_of(path)
    backbone, info = run_backbone(run, path)
    with reading(run.config, says="does not name images", advice="give --data"):
        asked = _data_settings(settings, {} if settings.data else run.read_config())
    try:
        sources = open_images(*asked, _reading(info, run))
    except InputError as error:
        if settings.data:
            raise
        raise InputError(
            f"without --data, the data of {run.path} is used: {error}; if it has moved, give --data"
        ) from error
    image_size = settings.image_size or info.image_size
    feature_width(backbone, info, image_size)  # only a check that the network takes images of this size
    data, class_level, max_unreadable = asked
    return Subject(backbone, info, image_size, data, class_level, tuple(sources), max_unreadable, run)


def _of_name(settings: SubjectSettings, run: Path | None, open_images: OpenImages) -> Subject:
    """Return the timm network that the settings name, with the data in the settings."""
    name = f"backbone {settings.backbone}" if settings.backbone else f"the backbone of weights {settings.weights}"
    if run:
        raise InputError(f"take either the run {run} or {name}, not both")
    if settings.data is None:
        raise InputError(f"{name} needs --data: the images to use it on")
    data, class_level, max_unreadable = _data_settings(settings, {})
    sources = tuple(open_images(data, class_level, max_unreadable, RGB))
    backbone, info = named_backbone(settings, lambda: default_image_size(sources[0]))
    return Subject(backbone, info, info.image_size, data, class_level, sources, max_unreadable, None)


def _data_settings(settings: SubjectSettings, config: Mapping[str, Any]) -> tuple[str, int, float]:
    """Return data, class level and share of unreadable files: as given, else as in the run, else the defaults."""
    defaults = {"class_level": 0, "max_unreadable": 0.01, **config}
    given = {name: getattr(settings, name) for name in ("data", "class_level", "max_unreadable")}
    chosen = defaults | {name: value for name, value in given.items() if value is not None}
    data, level, share = chosen["data"], chosen["class_level"], chosen["max_unreadable"]
    if not isinstance(data, str) or type(level) is not int or type(share) not in (int, float):
        raise TypeError(f"data {data!r}, class_level {level!r} and max_unreadable {share!r} are of wrong types")
    return data, level, share


def _reading(info: BackboneInfo, run: RunDirectory) -> Reading:
    """Return how the images of a run are read."""
    return Reading(len(info.mean), run.white_level)
