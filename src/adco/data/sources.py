"""Where images come from: a named set in memory, or a folder of files.

    open_source("cifar10")          the training split of a named set
    open_source("photos/")          every image below a folder; its folders are classes where they look like it
    open_splits("photos/")          a labelled training and test source, for evaluation

B is a number of images asked for, n of images there are, H and W height and width in pixels.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data import archives
from adco.data.archives import Loaded, Split
from adco.data.folder import FolderSource, Indices, Unreadable, open_folder
from adco.data.listing import class_names, list_images, split_folders

__all__ = ["ArraySource", "FolderSource", "Images", "Pixels", "Source", "Unreadable", "open_source", "open_splits"]

Pixels = NDArray[np.uint8]  # [..., H, W, 3] RGB
VALIDATION = "-validation"  # behind a named set: its training images alone, some of them held out
Images = Pixels | Iterable[Pixels]  # [B, H, W, 3], or B photographs [H, W, 3] of any size


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images of one size, in memory.

    Args:
        name: what to call it.
        images: [n, H, W, 3].
        labels: [n], indices into `classes`; None where there are none.
        classes: their names.

    Raises:
        ValueError: images of another shape or type; another number of labels.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images of {self.name} are {found}, not uint8 [n, H, W, 3]")
        if self.labels is not None and len(self.labels) != len(self.images):
            raise ValueError(f"{self.name} has {len(self.images)} images and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        return ()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[n, 2], height and width in pixels."""
        return np.broadcast_to(np.array(self.images.shape[1:3], np.int64), (len(self), 2))

    @property
    def shorter_side(self) -> int:
        """The shorter side of every image, in pixels."""
        return int(min(self.images.shape[1:3]))

    @property
    def smallest_side(self) -> int:
        """The same: the images are of one size."""
        return self.shorter_side

    def load(self, indices: Indices) -> NDArray[np.uint8]:
        """[B, H, W, 3], a copy."""
        return self.images[np.asarray(indices, np.int64)]

    def subset(self, indices: Indices) -> "ArraySource":
        """These images only, in this order."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, np.int64)]
        return ArraySource(self.name, self.load(indices), labels, self.classes)


Source = ArraySource | FolderSource


def open_source(data: str | Path, split: Split = "train", max_unreadable: float = 0.01) -> Source:
    """The images of a named set or of a folder.

    Args:
        data: `cifar10`, `fashion-mnist`, `digits`, or the path of a folder. Where the folder has `train/` beside
            `test/` or `val/`, these are its splits; else all of it is its training split. A named set with
            `-validation` behind it is its training images alone, a fifth of each class held out as the test split.
        split: "train" or "test".
        max_unreadable: the share of files, 0 to 1, that may be damaged. They are left out with a warning.

    Raises:
        ValueError: no such data or split; a set that cannot be fetched; fewer than two images; too many damaged files;
            `train/` and `test/` with different classes.
    """
    if not 0 <= max_unreadable <= 1:
        raise ValueError(f"max_unreadable {max_unreadable} is not a share from 0 to 1")
    if _is_named(data):
        return _named(str(data), split)
    try:
        return open_folder(_split_folder(data, split), max_unreadable)
    except OSError as error:
        raise ValueError(f"data {str(data)!r}: {error.filename} cannot be read: {error.strerror}") from error


def open_splits(data: str | Path, max_unreadable: float = 0.01) -> tuple[Source, Source]:
    """A labelled training and test source, for evaluation.

    Where the data has no test split of its own, a fifth of each class is held out, the same at every call.

    Raises:
        ValueError: as `open_source`, or the data has no labels.
    """
    train = open_source(data, "train", max_unreadable)
    labels = _labels(train)
    if _is_named(data) or split_folders(_folder(data)):
        test = open_source(data, "test", max_unreadable)
        _labels(test)
        return train, test
    kept, held_out = _hold_out(labels)
    return train.subset(kept), train.subset(held_out)


def _named(data: str, split: Split) -> ArraySource:
    if data in _NAMED:
        return ArraySource(data, *_NAMED[data](split))
    source = ArraySource(data, *_NAMED[data.removesuffix(VALIDATION)]("train"))
    kept, held_out = _hold_out(_labels(source))
    return source.subset(kept if split == "train" else held_out)


def _is_named(data: str | Path) -> bool:
    return isinstance(data, str) and data.removesuffix(VALIDATION) in _NAMED


def _labels(source: Source) -> NDArray[np.int64]:
    if source.labels is None:
        raise ValueError(f"{source.name} has no labels: give a labelled --data, with a folder of images a class")
    return source.labels


def _split_folder(data: str | Path, split: Split) -> Path:
    """The folder with the images of the split: the data's own folder, or one right below."""
    root = _folder(data)
    folders = split_folders(root)
    if folders:
        _check_same_classes(folders["train"], folders["test"])
        return folders[split]
    if split == "test":
        raise ValueError(f"data {str(data)!r} has no test split: no train/ beside test/ or val/ in it")
    return root


def _check_same_classes(train: Path, test: Path) -> None:
    """Where both splits have classes, these have to be the same, or label 3 would mean two things."""
    known, asked = (set(class_names(folder, list_images(folder))) for folder in (train, test))
    if known and asked and known != asked:
        differing = ", ".join(sorted(known ^ asked)[:10])
        raise ValueError(f"{train} and {test} have different classes: {differing} only in one of them")


def _folder(data: str | Path) -> Path:
    """The absolute path of a folder that is there: a worker may have another current directory."""
    path = Path(data).expanduser().absolute()
    if not path.is_dir():
        near = difflib.get_close_matches(str(data).lower(), _NAMED, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"data {str(data)!r} is neither a folder nor one of {', '.join(_NAMED)}{hint}")
    return path


def _hold_out(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to keep and to hold out: a fifth of each class, at least one of two, always the same."""
    generator = np.random.default_rng(0)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        held_out[members[: max(len(members) // 5, int(len(members) > 1))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _digits(split: Split) -> Loaded:
    """UCI's handwritten digits, [1797, 8, 8] of 0..16, as scikit-learn ships them; no test split of their own."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # a second to import

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    kept, held_out = _hold_out(labels)
    chosen = held_out if split == "test" else kept
    return np.repeat(grey[chosen, ..., None], 3, axis=-1), labels[chosen], tuple("0123456789")


_NAMED: Mapping[str, Callable[[Split], Loaded]] = {
    "cifar10": archives.cifar10,
    "fashion-mnist": archives.fashion_mnist,
    "digits": _digits,
}
