"""Where images come from: a named set in memory, or a folder of files.

    open_source("cifar10")          the training split of a named set
    open_source("photos/")          every image below a folder; its folders are classes where they look like it
    open_splits("photos/")          a labelled training and test source, for evaluation

B is a number of images asked for, n of images there are, H and W height and width in pixels.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data import archives
from adco.data.archives import Loaded, Split
from adco.data.arrays import ArraySource
from adco.data.classes import Classes, find_classes
from adco.data.folder import FolderSource, Unreadable, open_folder
from adco.data.listing import HELD_OUT, Listing, is_image, list_images, shown, split_folders

__all__ = ["ArraySource", "FolderSource", "Images", "Pixels", "Source", "Unreadable", "open_source", "open_splits"]

Pixels = NDArray[np.uint8]  # [..., H, W, 3] RGB
VALIDATION = "-validation"  # behind a named set: its training images alone, some of them held out
Images = Pixels | Iterable[Pixels]  # [B, H, W, 3], or B photographs [H, W, 3] of any size


Source = ArraySource | FolderSource


def open_source(
    data: str | Path, split: Split = "train", max_unreadable: float = 0.01, class_level: int | None = None
) -> Source:
    """The images of a named set or of a folder.

    Args:
        data: `cifar10`, `fashion-mnist`, `digits`, or the path of a folder. If the folder has `train/` or `training/`
            beside `test/`, `testing/`, `val/`, `valid/`, `validation/`, `eval/` or `dev/`, these are its splits; else
            all of it is its training split. A named set with `-validation` behind it is its training images alone, a
            fifth of each class held out as the test split.
        split: "train" or "test".
        max_unreadable: the share of files, 0 to 1, that may be damaged. They are left out with a warning.
        class_level: which folders below the folder (or its split) are the classes, 1 for those directly in it; None
            for the first level that has at least two folders.

    Raises:
        ValueError: no such data, split or class level; a set that cannot be fetched; fewer than two images; too many
            damaged files; `train/` and `test/` with different classes.
    """
    if not 0 <= max_unreadable <= 1:
        raise ValueError(f"max_unreadable {max_unreadable} is not a share from 0 to 1")
    if is_named(data):
        if class_level is not None:
            raise ValueError(f"class_level {class_level} is for folders: {data} has classes of its own")
        return _named(str(data), split)
    try:
        return open_folder(*_listing(_folder(data), split, class_level), max_unreadable)
    except OSError as error:
        raise ValueError(f"data {str(data)!r}: {error.filename} cannot be read: {error.strerror}") from error


def is_here(data: str | Path) -> bool:
    """Whether the data is on this machine: a named set that was fetched, or a path."""
    if is_named(data):
        name = str(data).removesuffix(VALIDATION)
        return name == "digits" or archives.is_fetched(name)
    return Path(data).expanduser().exists()


def open_splits(
    data: str | Path, max_unreadable: float = 0.01, class_level: int | None = None
) -> tuple[Source, Source]:
    """A labelled training and test source, for evaluation.

    If the data has no test split of its own, a fifth of each class is held out, the same at every call.

    Raises:
        ValueError: as `open_source`, or the data has no labels, or one image of each class.
    """
    train = labelled(open_source(data, "train", max_unreadable, class_level))
    if is_named(data) or "test" in split_folders(_folder(data)):
        return train, labelled(open_source(data, "test", max_unreadable, class_level))
    kept, held_out = _hold_out(_labels(train))
    if not len(held_out):
        raise ValueError(f"{train.name} has one image of each class, and none to test on")
    return train.subset(kept), train.subset(held_out)


def labelled(source: Source) -> Source:
    """The images that have a class.

    Raises:
        ValueError: if the source has no classes.
    """
    labels = _labels(source)
    return source if labels.min() >= 0 else source.subset(np.flatnonzero(labels >= 0))


def _named(data: str, split: Split) -> ArraySource:
    if data in _NAMED:
        return ArraySource(data, *_NAMED[data](split))
    source = ArraySource(data, *_NAMED[data.removesuffix(VALIDATION)]("train"))
    kept, held_out = _hold_out(_labels(source))
    return source.subset(kept if split == "train" else held_out)


def is_named(data: str | Path) -> bool:
    """Whether data is a named set, not a folder."""
    return isinstance(data, str) and data.removesuffix(VALIDATION) in _NAMED


def _labels(source: Source) -> NDArray[np.int64]:
    if source.labels is None:
        raise ValueError(
            f"{source.name} has no labels: give --data labelled images, in one folder per class ({source.description})"
        )
    return source.labels


def _listing(root: Path, split: Split, class_level: int | None) -> tuple[Listing, Classes]:
    """The files of a split and their classes. The splits have the same classes, or label 3 would mean two things."""
    folders = split_folders(root) or {"train": root}
    if split not in folders:
        beside = ", ".join(f"{name}/" for name in HELD_OUT)
        raise ValueError(f"data {str(root)!r} has no test split: it has no train/ beside one of {beside}")
    listings = {name: list_images(folder) for name, folder in folders.items()}
    train = find_classes(listings["train"], class_level)
    found = {"train": train}
    if "test" in folders:
        found["test"] = find_classes(listings["test"], class_level or train.level)
        _check_same_classes(folders, set(train.names), set(found["test"].names))
    classes = found[split]
    if class_level is not None and not classes.names:
        raise ValueError(f"class_level {class_level} must be less: no image of {shown(folders[split])}/ lies so deep")
    return listings[split], replace(classes, words=classes.words + _other_folders(root, folders))


def _check_same_classes(folders: Mapping[str, Path], train: set[str], test: set[str]) -> None:
    if train and test and train != test:
        differing = ", ".join(sorted(train ^ test)[:10])
        raise ValueError(
            f"{folders['train']} and {folders['test']} have different classes: {differing} only in one of them"
        )


def _other_folders(root: Path, folders: Mapping[str, Path]) -> str:
    """Which folder is the test split, and what lies beside the splits and is not used."""
    if "test" not in folders:
        return ""
    children = sorted(child for child in root.iterdir() if child.name[0] != "." and child not in folders.values())
    unused = [f"{child.name}/" if child.is_dir() else child.name for child in children]
    unused = [name for name in unused if name.endswith("/") or is_image(name)]
    more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
    return f"; test split {shown(folders['test'])}/" + (f", not used: {', '.join(unused[:3])}{more}" if unused else "")


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
