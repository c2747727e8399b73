"""A source of image files, decoded at every read."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from adco.data.damage import DamagedImage, count_files, list_files, too_many
from adco.data.sources import decode
from adco.data.sources.classes import Classes
from adco.data.sources.handover import once_per_node
from adco.data.sources.labels import Labels
from adco.data.sources.listed import source_of_files
from adco.data.sources.listing import Listing, display_path
from adco.data.sources.paths import Paths
from adco.data.sources.protocol import Indices, Source, Unreadable
from adco.data.sources.reading import RGB, Reading
from adco.data.sources.retry import retried
from adco.data.sources.sizes import Size
from adco.data.sources.survey import survey
from adco.errors import InputError
from adco.words import counted

SAMPLE = 2000  # files that are decoded when a folder is opened; decoding photographs takes some 10 ms each


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded at every read.

    Shapes: n images in the source, H and W the height and width in pixels.

    Args:
        name: path of the folder.
        paths: of the n image files.
        shorter_side: the median of the images' shorter sides, in pixels; of a larger source or of a sample of its
            images, if not all have been read.
        smallest_side: the smallest of the shorter sides of these images, in pixels.
        labels: [n], indices into `classes`, −1 for an image in no class folder; None if there are no classes.
        classes: class names.
        unreadable: the files that were left out because they could not be read.
        layout: text for the user: which folders the classes come from, or why there are none.
    """

    name: str
    paths: Paths
    shorter_side: int
    smallest_side: int
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    layout: str = "no classes"

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def description(self) -> str:
        """One line for the user: the number of images, and which folders the classes come from."""
        return f"{display_path(Path(self.name))}/: {counted(len(self), 'image')}, {self.layout}"

    @property
    def in_memory(self) -> bool:
        """False: files are decoded at every read."""
        return False

    def load(self, indices: Indices) -> Iterator[NDArray[np.uint8]]:
        """Return an iterator over the images at these indices, each [H, W, 3], upright and in RGB.

        Each file is decoded only when the iterator reaches it (see `decode.read_rgb`).

        Raises:
            DamagedImage: while iterating, if a file cannot be read.
        """
        return (_read(self.paths[index]) for index in indices)

    def where(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.paths[index])

    def with_names(self, names: bytes) -> "FolderSource":
        """Return a source of the files of these names in the folder, each followed by a zero byte.

        They have the labels of this source; those that are not in it, no class.
        """
        paths = Paths.below(self.paths.root, names)
        if self.labels is None:
            return replace(self, paths=paths)
        known = dict(zip(self.paths.names.split(b"\0")[:-1], self.labels.tolist(), strict=True))
        labels = np.array([known.get(name, -1) for name in names.split(b"\0")[:-1]])
        return replace(self, paths=paths, labels=labels)

    def read_as(self, reading: Reading) -> Source:
        """Return a source whose images have other channels than RGB."""
        if reading == RGB:
            return self
        return source_of_files(self.name, self.paths, Labels(self.labels, self.classes), self.layout, reading)

    def subset(self, indices: Indices) -> "FolderSource":
        """Return a source with only these files, in this order."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, np.int64)]
        return replace(self, paths=self.paths.subset(indices), labels=labels)


def open_folder(listing: Listing, classes: Classes, max_unreadable: float) -> FolderSource:
    """Return a source of the images of a listing, with their classes.

    Of more than `SAMPLE` files, a sample is decoded that depends only on their number. The files in it that cannot be
    read are left out. Damaged files outside the sample raise an error when they are loaded.

    Raises:
        InputError: no image is readable, or the share of unreadable files is above `max_unreadable`, in
            the folder or in the sample.
    """
    root, paths = listing.root, listing.images
    sample = np.sort(np.random.default_rng(0).permutation(len(paths))[:SAMPLE])
    found = dict(zip(sample.tolist(), _survey_once(root, paths.subset(sample)), strict=True))
    unreadable = {index: Unreadable(paths[index], why) for index, why in found.items() if isinstance(why, str)}
    _check_unreadable(listing, tuple(unreadable.values()), len(sample), max_unreadable)
    sides = [min(size) for size in found.values() if not isinstance(size, str)]
    if not sides:
        raise InputError(f"none of the images in {root} can be read")
    if warning := listing.warning():
        warnings.warn(warning, stacklevel=3)
    layout = classes.description
    if (left_out := listing.describe_left_out()) not in warning:
        layout += f"; {left_out}"
    source = FolderSource(
        name=str(root),
        paths=paths,
        shorter_side=int(np.median(sides)),
        smallest_side=min(sides),
        labels=classes.labels,
        classes=classes.names,
        unreadable=tuple(unreadable.values()),
        layout=layout,
    )
    return source.subset(np.delete(np.arange(len(paths)), list(unreadable))) if unreadable else source


def _survey_once(root: Path, paths: Paths) -> list[Size | str]:
    """Return what `survey` yields. Of several processes that train together, one of each node decodes the files."""
    found = once_per_node(f"sizes in {root}", lambda: {"sizes": np.array(json.dumps(list(survey(root, paths))))})
    sizes: list[Size | str] = json.loads(str(found["sizes"]))
    return sizes


def _check_unreadable(listing: Listing, unreadable: Sequence[Unreadable], checked: int, max_unreadable: float) -> None:
    """Raise InputError if the share of unreadable files is above the maximum; otherwise warn about them."""
    if not unreadable:
        return
    root, of = listing.root, f", of {len(listing.images)} in all" if checked < len(listing.images) else ""
    if text := too_many(root, unreadable, checked, max_unreadable):
        all_files = f"adco check {quote(str(root))} lists all. " if of else ""
        raise InputError(f"{text}{of}. {all_files}Repair or remove these files, or raise --max_unreadable")
    files = list_files(root, unreadable, 3)
    warnings.warn(f"{count_files(root, unreadable, checked)}{of}; left out: {files}", stacklevel=4)


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return retried(decode.read_rgb, path)
    except Exception as error:  # Pillow raises errors of a dozen types on damaged files
        raise DamagedImage(path, decode.reason(error)) from error
