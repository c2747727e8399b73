"""Images and their embeddings: computed by a backbone, or read from a file of `adco embed`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from adco.config.commands import SearchSettings
from adco.data.images import Pixels
from adco.data.sources.labels import Labels
from adco.data.sources.listed import source_of_files
from adco.data.sources.listing import is_image
from adco.data.sources.open import open_all, open_source
from adco.data.sources.paths import Paths
from adco.data.sources.protocol import Source, read_as
from adco.data.sources.reading import RGB, Reading
from adco.devices import evaluation_device
from adco.embeddings.embed import embed_source
from adco.embeddings.embeddings import Embeddings
from adco.embeddings.formats import read_embeddings
from adco.errors import InputError
from adco.evaluation.subject import Subject, open_subject

SAME = 0.99  # least cosine of two embeddings of an image by one backbone, on different devices
LOOKED_AT = 16  # images by which a file of embeddings is compared with a backbone


@dataclass(frozen=True, eq=False)
class Collection:
    """Images and their embeddings.

    Args:
        source: the images, all of which were readable when they were embedded.
        embeddings: of these images, in the same order.
    """

    source: Source
    embeddings: Embeddings

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def paths(self) -> list[str]:
        """Where each image is."""
        return self.embeddings.paths

    @property
    def directions(self) -> torch.Tensor:
        """The embeddings divided by their norms, [n, F]."""
        return torch.from_numpy(self.embeddings.directions)

    def image(self, index: int) -> Pixels:
        """Return an image, [H, W, C]."""
        (pixels,) = self.source.load([index])
        return pixels


@dataclass(frozen=True)
class Opened:
    """What a search works on.

    Args:
        images: those to search in.
        other: further images; None if there are none.
        subject: the backbone; None if the images are from a file of embeddings and nothing else is to be embedded.
        device: where to compute.
    """

    images: Collection
    other: Collection | None
    subject: Subject | None
    device: str

    def image(self, index: int) -> Pixels:
        """Return an image, [H, W, C]; the further images follow the others."""
        further = index - len(self.images)
        return self.images.image(index) if self.other is None or further < 0 else self.other.image(further)


def open_collections(
    run: Path | None,
    settings: SearchSettings,
    other: tuple[str, str, str] | None,
    given: Source | None,
    *,
    needs_images: bool,
    needs_backbone: bool,
) -> Opened:
    """Open images and further images, and embed those that are not in a file of embeddings.

    Args:
        run: as for `adco.embeddings.embed.embed`.
        settings: the images and the backbone.
        other: of the further images, the setting that names them, their data and their split.
        given: images given from Python, instead of those that the settings name.
        needs_images: whether the images are read again.
        needs_backbone: whether the backbone is used for other images, too.

    Raises:
        InputError: a setting is impossible, the images or the backbone cannot be opened, too many images cannot be
            read, or the file has the embeddings of another backbone.
    """
    device = evaluation_device(settings.device)
    filed = read_embeddings(Path(settings.embeddings).expanduser()) if settings.embeddings else None
    if filed and (needs_images or needs_backbone):
        _check_files(filed.paths, f"{settings.embeddings}")
    if filed and other is None and not needs_backbone:
        return Opened(Collection(_files(filed.paths, RGB), filed), None, None, device)

    def open_images(data: str, class_level: int, max_unreadable: float, reading: Reading) -> list[Source]:
        opened = partial(_open, class_level=class_level, max_unreadable=max_unreadable, reading=reading)
        if filed:
            first = _files(filed.paths, reading)
        else:
            first = read_as(given, reading) if given is not None else opened(data, settings.split)
        return [first, _open_other(*other, opened)] if other else [first]

    named = replace(settings, data=settings.embeddings) if filed else settings
    subject = open_subject(named, run, open_images)
    first, *others = subject.sources
    if filed:
        images = Collection(first, filed)
        _check_backbone(subject, images, device, f"{settings.embeddings}")
    else:
        images = _embedded(subject, first, device)
    return Opened(images, _embedded(subject, others[0], device) if others else None, subject, device)


def _open(data: str, split: str, *, class_level: int, max_unreadable: float, reading: Reading) -> Source:
    if is_image(data) and Path(data).expanduser().is_file():
        return _files([data], reading)
    if split == "all":
        return open_all(data, max_unreadable, class_level, reading)
    return open_source(data, "train" if split == "train" else "test", max_unreadable, class_level, reading)


def _open_other(setting: str, data: str, split: str, opened: Callable[[str, str], Source]) -> Source:
    try:
        return opened(data, split)
    except InputError as error:
        raise InputError(f"{setting} {data}: {error}") from error


def _files(paths: Sequence[str], reading: Reading) -> Source:
    """Return a source of image files."""
    absolute = [str(Path(path).expanduser().absolute()) for path in paths]
    return source_of_files("images", Paths.absolute(absolute), Labels(), reading=reading)


def _embedded(subject: Subject, source: Source, device: str) -> Collection:
    embeddings, indices = embed_source(subject, source, device)
    return Collection(source if len(indices) == len(source) else source.subset(indices), embeddings)


def _check_backbone(subject: Subject, images: Collection, device: str, file: str) -> None:
    """Raise an InputError unless the embeddings of some images are those of the backbone."""
    some = np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int))
    found, _ = embed_source(subject, images.source.subset(some), device, progress=False)
    there = images.embeddings.embeddings.shape[1]
    width = found.embeddings.shape[1]
    if width != there or (found.directions * images.embeddings.directions[some]).sum(1).min() < SAME:
        raise InputError(f"{file} has the embeddings of another backbone or image size: give those it was made with")


def _check_files(paths: Sequence[str], file: str) -> None:
    if missing := next((path for path in paths if not Path(path).is_file()), None):
        raise InputError(f"{file} names images that are no files, such as {missing}: give --data instead")
