"""Decode files to find out which are damaged, and how large the images are."""

import os
import stat
import sys
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

from rich.console import Console
from rich.progress import track

from adco.data.sources import decode
from adco.data.sources.paths import Paths
from adco.data.sources.retry import retried
from adco.data.sources.sizes import KnownSizes, Size, key_of

PART = 2000  # files; the cache is written after so many, so that a process that is killed loses at most these
PROGRESS_ABOVE = 500  # files; decoding more photographs takes several seconds, so a progress bar is shown


def survey(root: Path, paths: Paths) -> Iterator[Size | str]:
    """Yield for each file its height and width, or a text that says why it cannot be read.

    The sizes are cached in the user's cache directory by path, file size and modification time, so a second survey of
    the same files decodes nothing. The cache is written in parts, so a survey that was stopped continues where it was.
    Files that cannot be read are not cached: a change of permissions, for example, changes neither their size
    nor their modification time.
    """
    show = len(paths) > PROGRESS_ABOVE and sys.stderr.isatty()
    known = KnownSizes(root)
    # Decoding releases the GIL, so threads help. With more threads than cores, some decode while others wait for disk.
    with ThreadPool(min(32, (os.cpu_count() or 1) + 4)) as pool:

        def inspected() -> Iterator[Size | str]:
            for start in range(0, len(paths), PART):
                try:
                    yield from pool.imap(lambda path: _inspect(path, known), paths[start : start + PART], chunksize=16)
                finally:  # also after Ctrl-C
                    known.write()

        console = Console(stderr=True)
        yield from track(inspected(), "checking images", len(paths), console=console, transient=True, disable=not show)


def _inspect(path: Path, known: KnownSizes) -> Size | str:
    """Return the size of an image, or the reason why it cannot be read."""
    try:
        status = retried(Path.stat, path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block for ever
            return "not a regular file"
        if status.st_size == 0:
            return "empty file"
        key = key_of(path, status.st_size, status.st_mtime_ns)
        size = known.get(key)
        if size is None:
            size = retried(decode.read_size, path)
            known.add(key, size)
    except Exception as error:  # Pillow raises errors of a dozen types on damaged files
        return decode.reason(error)
    return size
