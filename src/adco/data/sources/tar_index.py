"""The index of a tar shard: where each image lies, and its label.

A sample is the files of one name up to its first dot: `a/0001.jpg` with `a/0001.cls` (the class) or `a/0001.json`
(whose field `label` is the class). The index is made once and cached by the path, size and modification time of the
shard. n is the number of images in a shard.
"""

import hashlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.decode import SUFFIXES
from adco.errors import InputError
from adco.files import replacing, user_cache
from adco.untrusted import read_npz, reading, reason

COLUMNS: dict[str, type[np.generic]] = {"start": np.int64, "size": np.int64, "label": np.str_}  # of the cache
MOST_LABEL = 2**24  # bytes of a .json or .cls


@dataclass(frozen=True)
class Shard:
    """A tar file as it was when its index was made."""

    path: str
    size: int  # bytes
    modified: int  # nanoseconds


@dataclass(frozen=True, eq=False)
class TarIndex:
    """Where the images of a shard lie."""

    shard: Shard
    start: NDArray[np.int64]  # [n], in bytes
    size: NDArray[np.int64]  # [n], in bytes
    label: NDArray[np.str_]  # [n], "" for none
    without_image: int  # samples without an image


@dataclass
class _Sample:
    start: int = -1
    size: int = 0
    label: str = ""


def index_of(name: str, path: str) -> TarIndex:
    """Return the index of a shard, from the cache if the shard has not changed.

    Args:
        name: of the source, for messages.
        path: of the shard, absolute.

    Raises:
        InputError: the file is not a tar file, or is compressed, damaged or cut off, or a label cannot be read.
    """
    try:
        status = Path(path).stat()
        shard = Shard(path, status.st_size, status.st_mtime_ns)
        key = hashlib.sha256(f"{shard}:{SUFFIXES}".encode()).hexdigest()[:24]
        cache = user_cache() / "shards" / f"{key}.npz"
        found = _read(cache, shard)
        if found is None:
            found = _index(shard, _samples(path))
            _write(cache, found)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"data {name!r}: {path} is not an uncompressed tar file, or is cut off: {reason(error)}"
        ) from error
    except Exception as error:  # tarfile raises errors of many types on damaged headers
        raise InputError(f"data {name!r}: {path}: {reason(error)}") from error
    return found


def _index(shard: Shard, samples: dict[str, _Sample]) -> TarIndex:
    images = [sample for sample in samples.values() if sample.start >= 0]
    return TarIndex(
        shard,
        np.array([image.start for image in images], np.int64),
        np.array([image.size for image in images], np.int64),
        np.array([image.label for image in images], np.str_),
        len(samples) - len(images),
    )


def _samples(path: str) -> dict[str, _Sample]:
    """Return the samples of a shard by their names, in the order of their first files."""
    samples: dict[str, _Sample] = {}
    last = -1
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            folder, _, file = member.name.rpartition("/")
            stem, _, ending = file.partition(".")
            if member.offset_data <= last:  # the size of the one before is negative: reading would never end
                raise tarfile.ReadError(f"{member.name} has an impossible size")
            last = member.offset_data
            # No samples: a folder, a hidden file, no ending, or a sparse file, which may claim any size.
            if not member.isreg() or member.issparse() or not stem or not ending:
                continue
            sample = samples.setdefault(f"{folder}/{stem}", _Sample())
            if sample.start < 0 and f".{ending.lower()}" in SUFFIXES:
                sample.start, sample.size = member.offset_data, member.size
            elif ending in ("cls", "json") and not sample.label:
                if member.size > MOST_LABEL:
                    raise ValueError(f"{member.name} has {member.size:,} bytes, too many for a label")
                opened = tar.extractfile(member)
                assert opened is not None  # it is a regular file
                sample.label = _label(member.name, ending, opened.read())
        _check_end(tar)
    return samples


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError unless the end mark follows the last file: tarfile also stops at a cut or damaged header."""
    assert tar.fileobj is not None  # it is open
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a file nor the end mark is at byte {tar.offset}")


def _label(name: str, ending: str, content: bytes) -> str:
    try:
        text = content.decode()
        found = json.loads(text) if ending == "json" else text.strip()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not the text of a label: {reason(error)}") from error
    label = found.get("label") if isinstance(found, dict) else found
    return str(label) if isinstance(label, str | int) else ""


def _read(cache: Path, shard: Shard) -> TarIndex | None:
    try:
        with reading(cache):
            file = read_npz(cache)
            start, size, label = (file[name].astype(kind) for name, kind in COLUMNS.items())
            if not start.shape == size.shape == label.shape == (len(start),):
                raise ValueError("its columns differ in length")
            return TarIndex(shard, start, size, label, int(file["without_image"]))
    except InputError:  # missing or damaged
        return None


def _write(cache: Path, index: TarIndex) -> None:
    try:
        with replacing(cache) as file:
            np.savez(file, start=index.start, size=index.size, label=index.label, without_image=index.without_image)
    except OSError:  # the cache cannot be written: the next index is made again
        return
