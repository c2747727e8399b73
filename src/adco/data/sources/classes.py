"""Find the class of each image from the folder it is in.

Level 1 is the folders directly in the root, level 2 the folders inside those, and so on. By default, the classes are
the folders of the first level that has at least two. If level 1 has two or more folders, this is torchvision's rule.
n is the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.listing import Listing, display_path
from adco.words import counted, unicode

# If a larger share of the images is in no class folder, the folders are used as classes only if the user asks for it.
MAX_STRAY_SHARE = 0.1


@dataclass(frozen=True)
class Classes:
    """The classes of a folder's images.

    Args:
        names: class names, sorted; empty if there are no classes.
        labels: [n], indices into `names`, −1 for an image in no class folder; None if there are no classes.
        level: level of the class folders; None if there are no classes.
        description: text for the user: the number of classes and the folders they come from, or why there are none.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    level: int | None
    description: str

    def among(self, names: tuple[str, ...]) -> "Classes":
        """Return the same classes of the images, numbered among more names; unchanged if there are no classes."""
        if self.labels is None:
            return self
        place = {name: number for number, name in enumerate(names)}
        numbers = np.array([*(place[name] for name in self.names), -1])  # the last for the label −1
        return replace(self, names=names, labels=numbers[self.labels])


def find_classes(listing: Listing, level: int = 0) -> Classes:
    """Use the folders of one level as classes, by default the first level that has at least two folders.

    Folders with the same name at that level are one class.
    """
    parts_of = {folder: folder.relative_to(listing.root).parts for folder in listing.counts}
    counts = list(listing.counts.values())
    chosen = level or _first_level(list(parts_of.values()))
    if chosen is None:
        return Classes((), None, None, f"no classes: {_why_no_classes(listing.root, parts_of)}")
    at_level = [unicode(parts[chosen - 1]) if len(parts) >= chosen else None for parts in parts_of.values()]
    names = tuple(sorted({name for name in at_level if name is not None}))
    if not names:
        return Classes((), None, None, f"no classes: no image is in a folder at class_level {chosen}")
    without_class = [folder for folder, name in zip(parts_of, at_level, strict=True) if name is None]
    strays = _describe_strays(listing, without_class)
    if not level and sum(listing.counts[folder] for folder in without_class) > MAX_STRAY_SHARE * sum(counts):
        return Classes((), None, None, f"no classes: {strays}; --class_level {chosen} uses the folders as classes")
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.repeat([-1 if name is None else numbers[name] for name in at_level], counts)
    where = _describe_level(listing.root, parts_of, chosen)
    description = f"{counted(len(names), 'class', 'classes')} named after the folders {where}"
    if not level and (deeper := {parts[chosen] for parts in parts_of.values() if len(parts) > chosen}):
        description += f" (--class_level {chosen + 1} uses the {counted(len(deeper), 'folder')} inside them)"
    if strays:
        description += f"; {strays}: used for pretraining, left out of evaluation"
    return Classes(names, labels.astype(np.int64), chosen, description)


def _first_level(parts: Sequence[tuple[str, ...]]) -> int | None:
    for level in range(1, max(map(len, parts)) + 1):
        if len({path[:level] for path in parts if len(path) >= level}) > 1:
            return level
    return None


def _describe_level(root: Path, parts_of: dict[Path, tuple[str, ...]], level: int) -> str:
    """Return "directly in photos/" if all class folders have one parent.

    Otherwise return, for example, "at level 2 below photos/, such as photos/animals/cat/".
    """
    parents = {parts[: level - 1] for parts in parts_of.values() if len(parts) >= level}
    if len(parents) == 1:
        return f"directly in {display_path(root.joinpath(*parents.pop()))}/"
    example = next(parts[:level] for parts in parts_of.values() if len(parts) >= level)
    return f"at level {level} below {display_path(root)}/, such as {display_path(root.joinpath(*example))}/"


def _why_no_classes(root: Path, parts_of: dict[Path, tuple[str, ...]]) -> str:
    if list(parts_of) == [root]:
        return f"all images are directly in {display_path(root)}/"
    deepest = display_path(max(parts_of, key=lambda folder: len(parts_of[folder])))
    if len(parts_of) == 1:
        return f"all images are in one folder, {deepest}/"
    return f"{display_path(next(iter(parts_of)))}/ has images and only one folder with images, {deepest}/"


def _describe_strays(listing: Listing, folders: Sequence[Path]) -> str:
    if not folders:
        return ""
    strays = sum(listing.counts[folder] for folder in folders)
    before = takewhile(lambda folder: folder != folders[0], listing.counts)
    first = listing.images[sum(listing.counts[folder] for folder in before)]
    verb, such = ("is", "") if strays == 1 else ("are", "such as ")
    return f"{strays} of {len(listing.images)} images {verb} in no class folder ({such}{display_path(first)})"
