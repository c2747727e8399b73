"""Decode every file of a folder once before training, so that damaged files are found at the start of a run."""

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

from adco.data.sources import decode
from adco.files import replacing, user_cache

Size = tuple[int, int]  # height, width in pixels, upright

PROGRESS_ABOVE = 2000  # files; decoding more takes several seconds, so a progress bar is shown


def survey(root: Path, paths: Sequence[Path]) -> list[Size | str]:
    """Return for each file its height and width, or a text that says why it cannot be read.

    The sizes are cached in the user's cache directory by path, file size and modification time, so a second survey of
    the same files decodes nothing. Files that cannot be read are not cached: a change of permissions, for example,
    changes neither their size nor their modification time.
    """
    cache = _cache_path(root)
    known = _read(cache)
    show = len(paths) > PROGRESS_ABOVE and sys.stderr.isatty()
    # Decoding releases the GIL, so threads help. With more threads than cores, some decode while others wait for disk.
    with ThreadPool(min(32, (os.cpu_count() or 1) + 4)) as pool:
        results = pool.imap(lambda path: _inspect(path, known), paths, chunksize=16)
        console = Console(stderr=True)
        inspected = list(
            track(results, "checking images", len(paths), console=console, transient=True, disable=not show)
        )
    sizes = {key: found for key, found in inspected if not isinstance(found, str)}
    if sizes != known:
        _write(cache, sizes)
    return [found for _, found in inspected]


def _inspect(path: Path, known: Mapping[str, Size]) -> tuple[str, Size | str]:
    """Return the file's key in the cache, and its size or the reason why it cannot be read."""
    key = ""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block for ever
            return key, "not a regular file"
        if status.st_size == 0:
            return key, "empty file"
        key = f"{path}:{status.st_size}:{status.st_mtime_ns}"
        return key, known.get(key) or decode.read_size(path)
    except Exception as error:  # Pillow raises errors of a dozen types on damaged files
        return key, decode.reason(error)


def _cache_path(root: Path) -> Path:
    """Return the cache file of a folder. It depends on the Pillow version, because that decides what can be read."""
    name = hashlib.sha256(f"{root}:{PIL.__version__}".encode()).hexdigest()[:24]
    return user_cache() / "sizes" / f"{name}.json"


def _read(cache: Path) -> dict[str, Size]:
    try:
        return {key: (int(height), int(width)) for key, (height, width) in json.loads(cache.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # missing or damaged cache: decode all files
        return {}


def _write(cache: Path, sizes: Mapping[str, Size]) -> None:
    try:
        with replacing(cache) as file:
            file.write(json.dumps(sizes).encode())
    except OSError:  # the cache cannot be written: the next survey decodes all files again
        return
