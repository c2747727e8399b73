"""`hf:NAME_OR_PATH[:SPLIT]`: images in a Hugging Face data set, on the hub or saved by `save_to_disk`.

The images are decoded as those of a folder are, so the same files give the same pixels. They are in the column of type
`Image`, and the labels are in the column of type `ClassLabel`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adco.data.sources.encoded import EncodedSource
from adco.data.sources.labels import Labels
from adco.data.sources.registry import Split
from adco.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = ("test", "validation", "valid", "val")  # names of the test split, in order of preference


@dataclass(frozen=True, eq=False)
class TableOfImages:
    """A store of images in a column of a data set.

    Args:
        name: of the source, for messages.
        dataset: with the images as the files they were, not decoded.
        column: of the images.
    """

    name: str
    dataset: "Dataset"
    column: str

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> bytes:
        """Return the content of an image file; it is in the data set, or in a file that the data set names."""
        image = self.dataset[index][self.column]
        if image is None:
            raise OSError("there is no image")
        content: bytes | None = image["bytes"]
        if content is not None:
            return content
        if not Path(image["path"]).is_file():  # a data set may name anything, such as a device without an end
            raise OSError(f"{image['path']} is not a file")
        return Path(image["path"]).read_bytes()

    def where(self, index: int) -> str:
        """Return the number of the row."""
        return f"row {index} of {self.name}"


def open_hf(address: str, split: Split) -> EncodedSource | None:
    """Open a split of a data set. Without a name of it in the address, train and test (or validation) are its splits.

    Raises:
        InputError: `datasets` is not installed; there is no such data set or split, or the hub cannot be reached; it
            has no column of images.
    """
    name = f"hf:{address}"
    if find_spec("datasets") is None:
        raise InputError(f"data {name!r} needs the package datasets: pip install 'adco[hf]'")
    path, named_split = _parts(address)
    try:
        loaded = _load(path)
    except Exception as error:  # of many kinds: no network, no such data set, damaged files
        where = "on this machine" if Path(path).expanduser().exists() else "on this machine or the Hugging Face hub"
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"data {name!r} cannot be loaded: {path} is not a data set {where} ({why})") from error
    splits: Mapping[str, Dataset] = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    chosen = _chosen(name, splits, named_split, split)
    return None if chosen is None else of_dataset(splits[chosen], name)


def of_dataset(dataset: "Dataset", name: str) -> EncodedSource:
    """Return a data set as a source.

    Raises:
        InputError: it has no column of images, or no images.
    """
    from datasets import ClassLabel, Image

    kinds = {kind: [c for c, f in dataset.features.items() if isinstance(f, kind)] for kind in (Image, ClassLabel)}
    if not kinds[Image]:
        raise InputError(f"{name} has no column of images: its columns are {', '.join(dataset.features)}")
    if not len(dataset):
        raise InputError(f"{name} has no images")
    column = kinds[Image][0]
    plain = dataset.with_format(None)
    given = _labels(plain, kinds[ClassLabel][0]) if kinds[ClassLabel] else Labels()
    images = plain.select_columns([column]).cast_column(column, Image(decode=False))
    layout = given.describe()
    if kinds[Image][1:]:
        layout += f"; the images of column {column}; not used: {', '.join(kinds[Image][1:])}"
    return EncodedSource(name, TableOfImages(name, images, column), np.arange(len(images)), given, layout)


def _labels(dataset: "Dataset", column: str) -> Labels:
    """Return the labels in a column. Test splits without labels have −1 in it."""
    values = dataset.with_format("arrow", columns=[column])[:][column]
    labels = np.maximum(values.fill_null(-1).to_numpy().astype(np.int64), -1)
    return Labels(labels, tuple(dataset.features[column].names)) if (labels >= 0).any() else Labels()


def _load(path: str) -> Any:
    """Load a data set from a folder that `save_to_disk` wrote, or from the hub; all its splits if it has several."""
    from datasets import load_dataset, load_from_disk

    folder = Path(path).expanduser()
    return load_from_disk(str(folder)) if folder.is_dir() else load_dataset(path)


def _parts(address: str) -> tuple[str, str]:
    """Return the name or path, and the split, "" if there is none."""
    path, colon, split = address.rpartition(":")
    return (path, split) if colon else (split, "")


def _chosen(name: str, splits: Mapping[str, Any], named: str, split: Split) -> str | None:
    """Return the name of a split in the data set; None if it has no test split."""
    if named and named not in splits:
        raise InputError(f"data {name!r} has no split {named}: it has {', '.join(splits)}")
    if split == "test":
        return None if named else next((held_out for held_out in HELD_OUT if held_out in splits), None)
    chosen = named or ("train" if "train" in splits else "")
    if not chosen:
        raise InputError(f"data {name!r} has no split train: give one of {', '.join(splits)}, as in {name}:NAME")
    return chosen
