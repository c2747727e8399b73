"""Sources of images: named data sets, folders of files, and other kinds of sources by their scheme.

    open_source("cifar10")          the training split of a named set
    open_source("photos/")          all images below a folder; its subfolders may be used as classes
    open_source("folders:a/,b/")    the images of several folders
    open_source("list:files.csv")   the images that a file names; likewise the other schemes of `registry.SCHEMES`
    open_splits("photos/")          a labelled training source and a labelled test source, for evaluation

Shapes: n images in a source, B requested images, H and W the height and width in pixels.
"""

import difflib
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.address import VALIDATION, folders_of, is_named, scheme_of
from adco.data.sources.arrays import ArraySource
from adco.data.sources.classes import Classes, find_classes
from adco.data.sources.folder import open_folder
from adco.data.sources.joined import join
from adco.data.sources.labels import Labels
from adco.data.sources.listed import source_of_files
from adco.data.sources.listing import (
    HELD_OUT,
    Listing,
    children,
    display_path,
    is_image,
    is_listable,
    list_images,
    split_folders,
)
from adco.data.sources.protocol import Source, read_as
from adco.data.sources.reading import RGB, Reading
from adco.data.sources.registry import NAMED, SCHEMES, Split, load_named, open_address
from adco.data.sources.splits import hold_out
from adco.errors import InputError
from adco.words import counted

logger = logging.getLogger("adco")
SPLITS: tuple[Split, Split] = ("train", "test")
FolderOpener = Callable[[Listing, Classes, float], Source]


def open_source(
    data: str | Path, split: Split = "train", max_unreadable: float = 0.01, class_level: int = 0, reading: Reading = RGB
) -> Source:
    """Open a split of a named set or of a folder.

    Args:
        data: the name of a set (`registry.NAMED`), or the path of a folder. If the folder has `train/` or `training/`
            as well as `test/`, `testing/`, `val/`, `valid/`, `validation/`, `eval/` or `dev/`, these are its splits;
            otherwise the whole folder is the training split. The suffix `-validation` after a named set splits the
            set's training images: a fifth of each class becomes the test split, the rest the training split.
            `folders:a/,b/` joins several folders. Other kinds of sources begin with their scheme: `list:FILE`.
        split: "train" or "test".
        max_unreadable: largest share of files, 0 to 1, that may be unreadable. They are left out with a warning.
        class_level: level of the folders that are the classes, counted from the folder or its split: 1 for the folders
            directly in it, 0 for the first level that has at least two folders.
        reading: how the images are read: their channels, and which value is white.

    Raises:
        InputError: the data, split or class level does not exist; the set cannot be fetched; there are no images,
            or too many unreadable files.
    """
    if not 0 <= max_unreadable <= 1:
        raise InputError(f"max_unreadable {max_unreadable} is not between 0 and 1")
    folder_opener = _folder_opener(reading)  # called here, so that its warnings show the caller's line
    if _is_folder(data):
        listings = _listings(data, class_level, needs_test=split == "test")
        found: Source | None = folder_opener(*listings[split], max_unreadable) if split in listings else None
    else:
        found = _open_other(data, split, max_unreadable, class_level, reading)
    if found is None:
        names = ", ".join(f"{name}/" for name in HELD_OUT)
        needed = "" if scheme_of(data) else f": it needs train/ and one of {names}"
        where = str(_folder(data)) if _is_folder(data) else str(data)
        raise InputError(f"data {where!r} has no {split} split{needed}")
    return found


def open_all(data: str | Path, max_unreadable: float = 0.01, class_level: int = 0, reading: Reading = RGB) -> Source:
    """Open the images of both splits as one source. Arguments and errors are those of `open_source`."""
    found = _open_both(data, max_unreadable, class_level, reading, _folder_opener(reading), needs_test=False)
    parts = [source for source in found if source is not None]
    return join(parts) if len(parts) > 1 else parts[0]


def open_splits(
    data: str | Path, max_unreadable: float = 0.01, class_level: int = 0, reading: Reading = RGB
) -> tuple[Source, Source]:
    """Open a labelled training source and a labelled test source, for evaluation.

    If the data has no test split, a fifth of each class is held out for testing, the same images at every call.

    Raises:
        InputError: as for `open_source`; or the data has no labels, or only one image per class.
    """
    all_training, test = _open_both(
        data, max_unreadable, class_level, reading, _folder_opener(reading), needs_test=True
    )
    train = labelled(all_training)
    if test is not None:
        return train, _of_trained_classes(train, labelled(test))
    kept, held_out = hold_out(_require_labels(train))
    if not len(held_out):
        raise InputError(f"{train.name} has only one image per class: none can be held out for testing")
    return train.subset(kept), train.subset(held_out)


def _open_both(
    data: str | Path,
    max_unreadable: float,
    class_level: int,
    reading: Reading,
    folder_opener: FolderOpener,
    *,
    needs_test: bool,
) -> tuple[Source, Source | None]:
    """Open both splits; the second is None if the data has no test split."""
    found: list[Source | None]
    if _is_folder(data):
        listings = _listings(data, class_level, needs_test=needs_test)
        found = [folder_opener(*listings[s], max_unreadable) if s in listings else None for s in SPLITS]
    else:
        found = [_open_other(data, split, max_unreadable, class_level, reading) for split in SPLITS]
    train, test = found
    assert train is not None
    return train, test


def labelled(source: Source) -> Source:
    """Return the source without the images that have no class.

    Raises:
        InputError: the source has no labels.
    """
    labels = _require_labels(source)
    return source if labels.min() >= 0 else source.subset(np.flatnonzero(labels >= 0))


def _of_trained_classes(train: Source, test: Source) -> Source:
    """Return the test images whose class has training images; log the others, and classes without test images.

    Raises:
        InputError: no class has both.
    """
    trained, tested = (set(np.unique(_require_labels(source)).tolist()) for source in (train, test))
    if train.classes != test.classes or trained == tested:
        return test
    only_test, only_train = (
        ", ".join(test.classes[label] for label in sorted(labels)[:10])
        for labels in (tested - trained, trained - tested)
    )
    if not trained & tested:
        raise InputError(f"{train.name} has the classes {only_train}, {test.name} {only_test}: none is in both")
    if only_train:
        logger.info(f"classes without test images in {test.name}: {only_train}")
    if not only_test:
        return test
    kept = np.flatnonzero(np.isin(_require_labels(test), list(trained)))
    left_out = counted(len(test) - len(kept), "test image")
    logger.warning(f"warning: {left_out} left out of classes that {train.name} does not have: {only_test}")
    return test.subset(kept)


def _is_folder(data: str | Path) -> bool:
    return not (is_named(data) or scheme_of(data) or folders_of(data))


def _folder_opener(reading: Reading) -> FolderOpener:
    """Return the function that opens a folder."""
    return open_folder if reading == RGB else partial(_open_files, reading)


def _open_files(reading: Reading, listing: Listing, classes: Classes, max_unreadable: float) -> Source:
    """Return a source of a folder's files with other channels than RGB, without decoding all of them first."""
    labels = Labels(classes.labels, classes.names)
    return source_of_files(str(listing.root), listing.images, labels, classes.description, reading)


def _open_other(
    data: str | Path, split: Split, max_unreadable: float, class_level: int, reading: Reading
) -> Source | None:
    """Open a split of what is not a single folder; None if there is no such split."""
    if folders := folders_of(data):
        listings = [_listings(folder, class_level, needs_test=split == "test") for folder in folders]
        if not all(split in listing for listing in listings):
            return None
        return join([_folder_opener(reading)(*listing[split], max_unreadable) for listing in listings])
    if class_level:
        raise InputError(f"class_level {class_level} is for folders: {data} has classes of its own")
    found = _named(str(data), split) if is_named(data) else open_address(str(data), split)
    return None if found is None else read_as(found, reading)


def _named(data: str, split: Split) -> Source:
    name = data.removesuffix(VALIDATION)
    found = load_named(name, split if data == name else "train")
    source = ArraySource(data, *found) if isinstance(found, tuple) else found
    if data == name:
        return source
    kept, held_out = hold_out(_require_labels(source))
    return source.subset(kept if split == "train" else held_out)


def _require_labels(source: Source) -> NDArray[np.int64]:
    if source.labels is None:
        raise InputError(
            f"{source.name} has no labels: give --data labelled images, in one folder per class ({source.description})"
        )
    return source.labels


def _listings(data: str | Path, class_level: int, *, needs_test: bool) -> dict[Split, tuple[Listing, Classes]]:
    """Return the files of each split of a folder, and their classes.

    A split that lacks a class of the other counts it, too, so that labels mean the same in both. A test folder without
    images is an error if `needs_test`, otherwise it is not used.
    """
    root = _folder(data)
    try:
        folders: Mapping[Split, Path] = split_folders(root) or {"train": root}
        listings: dict[Split, Listing] = {}
        for split, folder in folders.items():
            with suppress(InputError) if split == "test" and not needs_test else nullcontext():
                listings[split] = list_images(folder)
    except OSError as error:
        raise InputError(f"data {str(data)!r}: {error.filename} cannot be read: {error.strerror}") from error
    train = find_classes(listings["train"], class_level)
    found: dict[Split, Classes] = {"train": train}
    if "test" in listings:
        found["test"] = find_classes(listings["test"], class_level or train.level or 0)
        names = tuple(sorted({*train.names, *found["test"].names}))
        found = {split: classes.among(names) for split, classes in found.items()}
    for split, classes in found.items():
        if class_level and not classes.names:
            where = display_path(folders[split])
            raise InputError(
                f"class_level {class_level} is too large: no image in {where}/ is in a folder at that level"
            )
    splits = _describe_splits(root, {split: folders[split] for split in listings})
    return {
        split: (listings[split], replace(classes, description=classes.description + splits))
        for split, classes in found.items()
    }


def _describe_splits(root: Path, folders: Mapping[Split, Path]) -> str:
    """Name the folder of the test split, and the folders and images next to the splits that are not used."""
    if root in folders.values():
        return ""
    inside, files = children(root)
    unused = [folder for folder in inside if folder not in folders.values()]
    names = [f"{folder.name}/" if is_listable(folder) else f"{folder.name}/ (cannot be listed)" for folder in unused]
    names += [file.name for file in files if is_image(file.name)]
    names.sort(key=lambda name: (name[0] == ".", name))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    not_used = f"; not used: {', '.join(names[:3])}{more}" if names else ""
    return f"; test split {display_path(folders['test'])}/{not_used}" if "test" in folders else not_used


def _folder(data: str | Path) -> Path:
    """Return the absolute path of an existing folder. Absolute, because a worker may have another current directory."""
    path = Path(data).expanduser().absolute()
    if not path.is_dir():
        if is_image(path.name) and not path.exists():
            raise InputError(f"data {str(data)!r} does not exist")
        near = difflib.get_close_matches(str(data).lower(), NAMED, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        if ":" in str(data):
            schemes = ("folders", *(scheme for scheme in SCHEMES if scheme != "python"))  # which is not for users
            hint = f", nor does it begin with {', '.join(f'{scheme}:' for scheme in schemes)}"
        raise InputError(f"data {str(data)!r} is neither a folder nor one of {', '.join(NAMED)}{hint}")
    return path
