"""File systems that fill or cannot be written, in processes of their own: no other process sees what they mount."""

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from program import in_own_process

NEW_MOUNTS = 0x20000  # CLONE_NEWNS of Linux
Result = TypeVar("Result")


class NotPossibleError(Exception):
    """Nothing can be mounted here."""


def with_mounts(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process that may mount file systems; skip the test where that is not possible."""
    try:
        result: Result = in_own_process(_in_namespace, function, arguments)
    except NotPossibleError as error:
        pytest.skip(f"mounts file systems, which is not possible here: {error}")
    return result


def _in_namespace(function: Callable[..., Result], arguments: tuple[object, ...]) -> Result:
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS):
            raise NotPossibleError(f"error {ctypes.get_errno()}")
        mount("--make-rprivate", "/")
    except (AttributeError, OSError, subprocess.CalledProcessError) as error:
        raise NotPossibleError(str(error)) from error
    return function(*arguments)


def mount(*words: str | Path) -> None:
    """Run `mount`."""
    subprocess.run(["mount", *words], check=True, capture_output=True)


def small_disk(folder: Path, megabytes: int = 8) -> Path:
    """Mount an empty file system of this size in a new folder, and return the folder."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", folder)
    return folder


def fill(disk: Path) -> None:
    """Write a file that takes all the space left."""
    try:
        with (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass


def make_room(disk: Path) -> None:
    """Delete that file."""
    (disk / "ballast").unlink()


def make_read_only(disk: Path) -> None:
    """Let nothing be written any more, also where files are open for writing."""
    mount("--bind", disk, disk)
    mount("-o", "remount,ro,bind", disk)


def make_writable(disk: Path) -> None:
    """Undo `make_read_only`."""
    subprocess.run(["umount", disk], check=True, capture_output=True)
