"""Writing files atomically, and the directories for files that are kept between runs."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from uuid import uuid4

from filelock import FileLock

from adco.errors import InputError
from adco.words import unicode

PART = ".part"  # suffix of the temporary files of `replacing`
PARTS = f"*.{'[0-9a-f]' * 32}{PART}"  # their names


def user_cache() -> Path:
    """Return the package's cache directory: `adco` in `$XDG_CACHE_HOME`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adco"


def data_directory() -> Path:
    """Return the directory of the named data sets: `$ADCO_DATA`, by default the package's cache directory."""
    return Path(os.environ.get("ADCO_DATA") or user_cache()).expanduser()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically: yield a temporary file that replaces `path` if the block ends without an error.

    A reader sees either the old file or the new one. Several processes may write the same path at once; the last one
    to finish wins.

    Raises:
        OSError: the folder cannot be created or written.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex}{PART}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                yield file
            part.replace(path)
        finally:
            with suppress(OSError):  # it would hide the error of the block; `remove_parts` deletes what is left
                part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Delete the temporary files that `replacing` has left directly in a folder, if its process was killed."""
    for part in folder.glob(PARTS):
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of the block the name of a file if it has none, as those of a write do."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def check_writable(setting: str, file: str | Path) -> Path:
    """Return the absolute path of a file that can be written, so that a long computation does not end in an error.

    Nothing is left behind: folders that do not exist yet are not created.

    Raises:
        InputError: it is a folder, or its folder cannot be created or written.
    """
    path = Path(file).expanduser().absolute()
    if path.is_dir():
        raise InputError(f"{setting} {file} is a folder: give the name of a file")
    existing = next(folder for folder in path.parents if folder.exists())
    try:
        with TemporaryFile(dir=existing):
            return path
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{setting} {file} cannot be written ({existing}: {reason}): choose another --{setting}"
        ) from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Run the block in one process at a time: others that call this with the same path wait.

    Where the folder cannot be written or its file system has no locks, processes run the block at the same time.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with suppress(OSError, NotImplementedError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    write_bytes(path, unicode(text).encode())


def link(file: Path, path: Path) -> None:
    """Give a file that is only ever replaced, never written in place, a second name, atomically.

    Where the file system has no links, the file is copied.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex}{PART}")
    try:
        os.link(file, part)
        part.replace(path)
    except OSError:
        with file.open("rb") as source, replacing(path) as target:
            shutil.copyfileobj(source, target)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")
