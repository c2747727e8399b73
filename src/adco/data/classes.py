"""Which folders are classes.

Level 1 is the folders directly below the root, level 2 those in them, and so on. Unless the user chooses, the classes
are the folders of the first level that has at least two (torchvision's rule, which is level 1 alone, where that level
has two or more). n is the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data.listing import Listing, shown
from adco.words import counted

STRAYS = 0.1  # share of images outside the class folders above which these are not taken for classes


@dataclass(frozen=True)
class Classes:
    """The classes of a folder's images.

    Args:
        names: of the classes, sorted; empty if there are none.
        labels: [n], indices into `names`; −1 for an image that lies in no class folder.
        level: of the folders that are classes; None if there are none.
        words: the same for the user, with the path that decided.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    level: int | None
    words: str


def find_classes(listing: Listing, level: int | None = None) -> Classes:
    """Name the classes by the folders of one level, by default the first level that has at least two folders.

    Folders of the same name at that level are one class.
    """
    below = {folder: folder.relative_to(listing.root).parts for folder in listing.images}
    counts = [len(images) for images in listing.images.values()]
    chosen = level or _first_level(list(below.values()))
    if chosen is None:
        return Classes((), None, None, f"no classes: {_one_folder(listing.root, below)}")
    at_level = [parts[chosen - 1] if len(parts) >= chosen else None for parts in below.values()]
    names = tuple(sorted({name for name in at_level if name is not None}))
    if not names:
        return Classes((), None, None, f"no classes: no image lies in a folder of class_level {chosen}")
    strays = [path for path, name in zip(below, at_level, strict=True) if name is None]
    stray = _strays(listing, strays)
    if level is None and sum(len(listing.images[folder]) for folder in strays) > STRAYS * sum(counts):
        return Classes((), None, None, f"no classes: {stray}; --class_level {chosen} takes the folders as classes")
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.repeat([-1 if name is None else numbers[name] for name in at_level], counts)
    words = f"{counted(len(names), 'class', 'classes')} named by the folders {_where(listing.root, below, chosen)}"
    if level is None and (deeper := {parts[chosen] for parts in below.values() if len(parts) > chosen}):
        words += f" (--class_level {chosen + 1} for the {len(deeper)} in them)"
    if strays:
        words += f"; {stray}: trained on, left out of evaluation"
    return Classes(names, labels.astype(np.int64), chosen, words)


def _first_level(parts: Sequence[tuple[str, ...]]) -> int | None:
    for level in range(1, max(map(len, parts)) + 1):
        if len({path[:level] for path in parts if len(path) >= level}) > 1:
            return level
    return None


def _where(root: Path, below: dict[Path, tuple[str, ...]], level: int) -> str:
    """ "directly in photos/" for one common parent, else "at level 2 below photos/, such as photos/animals/cat/"."""
    parents = {parts[: level - 1] for parts in below.values() if len(parts) >= level}
    if len(parents) == 1:
        return f"directly in {shown(root.joinpath(*parents.pop()))}/"
    example = next(parts[:level] for parts in below.values() if len(parts) >= level)
    return f"at level {level} below {shown(root)}/, such as {shown(root.joinpath(*example))}/"


def _one_folder(root: Path, below: dict[Path, tuple[str, ...]]) -> str:
    if list(below) == [root]:
        return f"all images lie in {shown(root)}/ itself"
    deepest = shown(max(below, key=lambda folder: len(below[folder])))
    if len(below) == 1:
        return f"all images lie in one folder, {deepest}/"
    return f"{shown(next(iter(below)))}/ has images and only one folder of images, {deepest}/"


def _strays(listing: Listing, folders: Sequence[Path]) -> str:
    paths = [path for folder in folders for path in listing.images[folder]]
    if not paths:
        return ""
    total = sum(len(images) for images in listing.images.values())
    verb, such = ("lies", "") if len(paths) == 1 else ("lie", "such as ")
    return f"{len(paths)} of {total} images {verb} in none of the class folders ({such}{shown(paths[0])})"
