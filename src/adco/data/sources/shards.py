"""`wds:PATTERN`: images in local WebDataset shards, which are tar files with one image and its label after the other.

    wds:shards/                               all .tar files of a folder
    wds:shards/train-*.tar                    those that a pattern matches
    wds:shards/train-{000000..000009}.tar     those of a range

The images keep the order that they have in the shards. Any image can be read at any time, because the index of the
shards (`tar_index.py`) says where each one lies.
"""

import glob
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.encoded import EncodedSource
from adco.data.sources.labels import number_classes
from adco.data.sources.registry import Split
from adco.data.sources.tar_index import Shard, index_of
from adco.errors import InputError
from adco.words import counted

MOST_SHARDS = 100_000  # of one pattern
OPEN_AT_ONCE = 128  # shards that a process keeps open; the usual limit of a process is 1 024 files


@dataclass(frozen=True, eq=False)
class Shards:
    """A store of images in tar files.

    Args:
        shards: the tar files.
        shard: [n], the index of the tar file that each image is in.
        start: [n], where the image begins in it, in bytes.
        size: [n], the number of bytes of the image.
    """

    shards: tuple[Shard, ...]
    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, index: int) -> bytes:
        """Return the content of an image file. There is no position in the tar file that threads would share."""
        opened = _opened(self.shards[self.shard[index]])
        size = int(self.size[index])
        content = os.pread(opened.descriptor, size, int(self.start[index]))
        if len(content) < size:
            raise OSError(f"the tar file ends after {len(content)} of {size} bytes")
        return content

    def where(self, index: int) -> str:
        """Return the path of the tar file and the name of the image in it."""
        path, start = self.shards[self.shard[index]].path, int(self.start[index])
        try:
            with Path(path).open("rb") as file:
                file.seek(start - tarfile.BLOCKSIZE)
                header = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
        except (OSError, tarfile.HeaderError):
            return f"the image at byte {start} of {path}"
        return f"{header.name} in {path}"


class _Opened:
    """A file that is open for as long as someone refers to it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.descriptor)


@lru_cache(OPEN_AT_ONCE)  # of each process; a shard that was written anew is another key
def _opened(shard: Shard) -> _Opened:
    return _Opened(shard.path)


def open_shards(address: str, split: Split) -> EncodedSource | None:
    """Open the images of the shards that a pattern names. There is no test split.

    Raises:
        InputError: a shard is missing or damaged, or there is no image.
    """
    if split == "test":
        return None
    name = f"wds:{address}"
    paths = _paths(name, address)
    indices = [index_of(name, path) for path in paths]
    counts = [len(index.start) for index in indices]
    store = Shards(
        tuple(index.shard for index in indices),
        np.repeat(np.arange(len(indices)), counts),
        np.concatenate([index.start for index in indices]),
        np.concatenate([index.size for index in indices]),
    )
    without_image = sum(index.without_image for index in indices)
    if not len(store):
        raise InputError(f"data {name!r} has {counted(len(paths), 'shard')} without images")
    labels = number_classes(np.concatenate([index.label for index in indices]))
    layout = labels.describe()
    if without_image:
        layout += f"; {counted(without_image, 'sample')} without an image left out"
    return EncodedSource(name, store, np.arange(len(store)), labels, layout)


def _paths(name: str, address: str) -> list[str]:
    """Return the absolute paths of the shards: those of a range in its order, others sorted."""
    if re.match(r"\w+:", address):
        raise InputError(f"data {name!r} is not on this machine: only local shards can be read, so download them first")
    folder = Path(address).expanduser()
    is_folder = os.path.isdir(folder)  # noqa: PTH112 (a pattern may be too long for a name, which raises no error)
    patterns = [str(folder / "*.tar")] if is_folder else list(islice(_expanded(str(folder)), MOST_SHARDS + 1))
    if len(patterns) > MOST_SHARDS:
        raise InputError(f"data {name!r:.200} stands for more than {MOST_SHARDS:,} shards: give fewer")
    paths: list[str] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern)) or [pattern]  # noqa: PTH207 (an absolute pattern)
        paths.extend(str(Path(path).absolute()) for path in found)
    missing = [path for path in paths if not os.path.isfile(path)]  # noqa: PTH113
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"data {name!r}: there is no file {missing[0]}{more}")
    return paths


def _expanded(pattern: str) -> Iterator[str]:
    """Expand ranges and alternatives in braces, as a shell does: a{08..10}, a{x,y}."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if not found:
        yield pattern
        return
    first, last, alternatives = found.groups()
    numbers: Iterable[str] = alternatives.split(",") if alternatives else _range(first, last)
    before, after = pattern[: found.start()], pattern[found.end() :]
    for number in numbers:
        yield from _expanded(before + number + after)


def _range(first: str, last: str) -> Iterator[str]:
    step = 1 if int(first) <= int(last) else -1
    return (str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step))
