"""Images given from Python: an array, a list of images, a torch or Hugging Face data set, or a source of your own."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from adco.data.sources import decode
from adco.data.sources.arrays import ArraySource, converted
from adco.data.sources.chosen import Chosen, sample
from adco.data.sources.labels import Labels
from adco.data.sources.protocol import Indices, Source
from adco.data.sources.reading import RGB, Reading
from adco.data.sources.registry import Split
from adco.errors import InputError
from adco.words import counted

SCHEME = "python"  # begins the setting `data` of a run whose images were given from Python
ACCEPTED = "a PIL image, a uint8 array [H, W, C] or a uint8 tensor [C, H, W], alone or first in a tuple"


@dataclass(frozen=True, eq=False)
class ItemSource(Chosen):
    """The images of a list, or of any object with a length whose items are images or begin with one.

    Args:
        name: name of the source, for messages.
        items: the list or data set.
        chosen: [n], the index in `items` of each image of the source.
        given: labels and class names.
        reading: how the images are read.
    """

    name: str
    items: Any
    chosen: NDArray[np.int64]
    given: Labels
    reading: Reading = RGB

    @property
    def description(self) -> str:
        """One line for the user: the number of images and classes."""
        return f"{self.name}: {counted(len(self), 'image')}, {self.given.describe()}"

    @property
    def in_memory(self) -> bool:
        """True for a list."""
        return isinstance(self.items, list | tuple)

    def sample_sides(self) -> NDArray[np.int64]:
        return np.array([min(self._image(index).shape[:2]) for index in sample(len(self))])

    def load(self, indices: Indices) -> Iterator[NDArray[np.uint8]]:
        """Return an iterator over the images at these indices, each [H, W, C].

        Raises:
            InputError: while iterating, if an item is not an image, or has other channels.
        """
        return (self._image(index) for index in indices)

    def subset(self, indices: Indices) -> "ItemSource":
        """Return a source with only these images, in this order."""
        return replace(self, chosen=self.chosen[np.asarray(indices, np.int64)], given=self.given.subset(indices))

    def read_as(self, reading: Reading) -> "ItemSource":
        """Return a source whose images are converted to the channels asked for."""
        return replace(self, reading=reading)

    def _image(self, index: int) -> NDArray[np.uint8]:
        place = int(self.chosen[index])
        item = self.items[place]
        pixels = pixels_of(item)
        if pixels is None:
            raise InputError(f"item {place} of {self.name} is {describe(item)}: it must be {ACCEPTED}")
        return np.ascontiguousarray(converted(pixels, self.reading.channels, f"item {place} of {self.name} has"))


def source_of(images: Any) -> Source:
    """Return images given from Python as a source.

    Args:
        images: a uint8 array [n, H, W, C]; a list of PIL images or arrays; a torch data set with a length, whose items
            are images or tuples that begin with one; a Hugging Face data set; or a `Source`. A torch data set has
            labels if it has `targets`, as those of torchvision do.

    Raises:
        InputError: if it is something else, or has no image.
    """
    name = name_of(images)
    if all(hasattr(images, part) for part in ("load", "subset", "shorter_side")):
        source: Source = images
    elif isinstance(images, np.ndarray):
        source = ArraySource(name, images, None, ())
    elif type(images).__module__.partition(".")[0] == "datasets" and hasattr(images, "cast_column"):
        from adco.data.sources.hub import of_dataset

        source = of_dataset(images, name)
    elif hasattr(images, "__getitem__") and hasattr(images, "__len__") and not hasattr(images, "keys"):
        source = ItemSource(name, images, np.arange(len(images)), _targets(images))
    else:
        raise InputError(
            f"data is a {type(images).__name__}: give a path, a name, a uint8 array [n, H, W, C], a list of images, or "
            "a data set with a length"
        )
    if not len(source):
        raise InputError("data has no images")
    return source


def name_of(images: Any) -> str:
    """Return what the setting `data` of a run says about images that were given from Python."""
    return f"{SCHEME}:{type(images).__name__}"


def open_object(address: str, split: Split) -> Source:
    """Raise an InputError: images given from Python are not kept."""
    raise InputError(
        f"data '{SCHEME}:{address}' was given from Python and is not kept: give it again, as in "
        "adco.pretrain(resume=RUN, data=IMAGES)"
    )


def pixels_of(item: Any) -> NDArray[np.uint8] | None:
    """Return the image in an item, [H, W, C]; None if there is none. PIL images are RGB."""
    image = item[0] if isinstance(item, tuple) and item else item
    if isinstance(image, Image.Image):
        return decode.rgb_of(image)
    if isinstance(image, torch.Tensor) and image.ndim == 3:
        image = image.permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3:
        return image
    return None


def describe(item: Any) -> str:
    """Describe an item that is not an image, in a few words."""
    if isinstance(item, tuple) and item:
        return f"a tuple that begins with {describe(item[0])}"
    if isinstance(item, np.ndarray | torch.Tensor):
        return f"{type(item).__name__} {str(item.dtype).removeprefix('torch.')} {list(item.shape)}"
    return f"a {type(item).__name__}"


def _targets(images: Any) -> Labels:
    """Return the labels of a torchvision data set, which has them in `targets` and their names in `classes`."""
    targets = getattr(images, "targets", None)
    if targets is None or len(targets) != len(images):
        return Labels()
    labels = np.asarray(targets)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return Labels()
    names = getattr(images, "classes", None) or range(int(labels.max()) + 1)
    return Labels(labels.astype(np.int64), tuple(map(str, names)))
