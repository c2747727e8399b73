"""The paths of many files in one block of memory.

A million `Path` objects take about 300 MB, and every loader worker gets a copy of them as soon as Python counts
references to them. An array of bytes has no such counts, so that workers share the memory of the training process.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from adco.data.sources.protocol import Indices


@dataclass(frozen=True, eq=False)
class Paths(Sequence[Path]):
    """The paths of n files below one folder. An item is made into a `Path` when it is asked for.

    Args:
        root: the folder.
        names: the paths relative to it, as the file system encodes them, each followed by a zero byte.
        ends: [n], the place of the zero byte of each path in `names`.
    """

    root: str
    names: bytes
    ends: NDArray[np.int64]

    @classmethod
    def below(cls, root: str | Path, names: bytes) -> "Paths":
        """Return the paths below `root` of these names, each followed by a zero byte."""
        return cls(str(root), names, np.flatnonzero(np.frombuffer(names, np.uint8) == 0))

    @classmethod
    def absolute(cls, paths: Iterable[str | Path]) -> "Paths":
        """Return these absolute paths."""
        return cls.below("/", b"".join(os.fsencode(path) + b"\0" for path in paths))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> "Paths": ...
    def __getitem__(self, index: int | slice) -> "Path | Paths":
        """Return the path of one file, or those of several.

        Raises:
            IndexError: there is no such file.
        """
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        place = range(len(self))[index]
        return Path(self.root, os.fsdecode(self.names[self._start(place) : self.ends[place]]))

    def subset(self, indices: Indices) -> "Paths":
        """Return the paths of only these files, in this order."""
        return self.below(self.root, b"".join(self.names[self._start(i) : self.ends[i] + 1] for i in indices))

    def _start(self, place: int) -> int:
        return int(self.ends[place - 1]) + 1 if place else 0
