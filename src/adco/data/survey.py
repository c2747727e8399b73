"""Every file of a folder decoded once, before training, so that a damaged one shows on the first minute."""

import hashlib
import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import PIL
from rich.console import Console
from rich.progress import track

from adco.data import decode
from adco.data.cache import replacing, user_cache

Size = tuple[int, int]  # height, width in pixels, upright

MANY = 2000  # files that take long enough, some seconds, to show progress


def survey(root: Path, paths: Sequence[Path]) -> list[Size | str]:
    """Per file, its height and width, or in words why it cannot be read.

    The sizes are kept in the user's cache by path, length and time of change, so that a second survey of the same
    files decodes nothing. Files that cannot be read are looked at anew: mended permissions leave no trace in these.
    """
    cache = _cache_path(root)
    known = _read(cache)
    show = len(paths) > MANY and sys.stderr.isatty()
    # Decoding releases Python's lock, so threads help; waiting for a disk, more of them than there are cores.
    with ThreadPool(min(32, (os.cpu_count() or 1) + 4)) as pool:
        looks = pool.imap(lambda path: _look(path, known), paths, chunksize=16)
        console = Console(stderr=True)
        looked = list(track(looks, "reading", len(paths), console=console, transient=True, disable=not show))
    sizes = {key: found for key, found in looked if not isinstance(found, str)}
    if sizes != known:
        _write(cache, sizes)
    return [found for _, found in looked]


def _look(path: Path, known: Mapping[str, Size]) -> tuple[str, Size | str]:
    """The file's key in the cache, and what was found."""
    key = ""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            return key, "not a regular file"
        if status.st_size == 0:
            return key, "empty file"
        key = f"{path}:{status.st_size}:{status.st_mtime_ns}"
        return key, known.get(key) or decode.read_size(path)
    except Exception as error:  # Pillow raises errors of a dozen types on damaged files
        return key, decode.reason(error)


def _cache_path(root: Path) -> Path:
    """One file a folder and a version of Pillow, which decides what can be read."""
    name = hashlib.sha256(f"{root}:{PIL.__version__}".encode()).hexdigest()[:24]
    return user_cache() / "sizes" / f"{name}.json"


def _read(cache: Path) -> dict[str, Size]:
    try:
        return {key: (int(height), int(width)) for key, (height, width) in json.loads(cache.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or not ours: it is only a cache
        return {}


def _write(cache: Path, sizes: Mapping[str, Size]) -> None:
    try:
        with replacing(cache) as file:
            file.write(json.dumps(sizes).encode())
    except OSError:  # nowhere to keep it: the next survey decodes again
        return
