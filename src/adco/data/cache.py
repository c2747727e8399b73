"""Where things are kept between runs, and how a file gets there whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def user_cache() -> Path:
    """`adco` in the user's cache: `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adco"


def data_directory() -> Path:
    """Where the named sets are: `$ADCO_DATA`, else the user's cache."""
    return Path(os.environ.get("ADCO_DATA") or user_cache()).expanduser()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` at the end, or never: a reader sees the old file or the new one.

    Of several processes that write the same path at once, the last one wins and all end well.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
