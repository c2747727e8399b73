"""The sizes of images that were decoded before, kept in the user's cache directory."""

import hashlib
from pathlib import Path

import numpy as np
import PIL

from adco.files import replacing, user_cache

Size = tuple[int, int]  # height, width in pixels, upright

_RECORD = np.dtype([("key", np.uint64), ("height", np.uint32), ("width", np.uint32)])


class KnownSizes:
    """The sizes of images below one folder, by path, file size and modification time.

    A record takes 16 bytes, because there may be millions: the key is a hash of 64 bits. A file that was changed gets
    another key, and its old record stays. The cache depends on the Pillow version, which decides what can be read.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(f"{root}:{PIL.__version__}".encode(errors="surrogateescape")).hexdigest()[:24]
        self.path = user_cache() / "sizes" / f"{name}.npy"
        self.records = self._read()  # sorted by key
        self.new: dict[int, Size] = {}

    def get(self, key: int) -> Size | None:
        """Return the height and width of the file with this key; None if they are not known."""
        place = int(np.searchsorted(self.records["key"], np.uint64(key)))
        if place < len(self.records) and self.records["key"][place] == key:
            return int(self.records["height"][place]), int(self.records["width"][place])
        return self.new.get(key)

    def add(self, key: int, size: Size) -> None:
        """Remember a size."""
        self.new[key] = size

    def write(self) -> None:
        """Write what was added to the cache, together with what other processes have written meanwhile."""
        new, self.new = self.new, {}
        if not new:
            return
        added = np.array([(key, *size) for key, size in list(new.items())], _RECORD)
        both = np.concatenate([self._read(), added])
        self.records = both[np.unique(both["key"], return_index=True)[1]]
        try:
            with replacing(self.path) as file:
                np.save(file, self.records)
        except OSError:  # the cache cannot be written: the next survey decodes all files again
            return

    def _read(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        try:
            found = np.load(self.path)
            return np.sort(found, order="key") if found.dtype == _RECORD and found.ndim == 1 else np.empty(0, _RECORD)
        except (OSError, ValueError, EOFError):  # missing or damaged cache: decode all files
            return np.empty(0, _RECORD)


def key_of(path: Path, bytes_: int, modified: int) -> int:
    """Return the key of a file.

    Args:
        path: the file.
        bytes_: its size.
        modified: its modification time in nanoseconds.
    """
    text = f"{path}:{bytes_}:{modified}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
