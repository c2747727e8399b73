"""Errors that one line explains. The command prints that line; any other exception keeps its traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class AdcoError(Exception):
    """An error that one line explains.

    Attributes:
        exit_code: exit code of the command.
        on_first_rank_only: whether all ranks raise it together, so that one line is enough.
    """

    exit_code = 1
    on_first_rank_only = False


@contextmanager
def same_in_all_processes() -> Iterator[None]:
    """Let the first process alone print an error of the block, which all raise, as they have the same settings."""
    try:
        yield
    except AdcoError as error:
        error.on_first_rank_only = True
        raise


class InputError(AdcoError, ValueError):
    """Something given is impossible: a setting, an image folder, a file. The line says what to give instead."""

    exit_code = 2
