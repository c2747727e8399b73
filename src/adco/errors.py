"""Errors that one line explains. The command prints that line; any other exception keeps its traceback."""


class AdcoError(Exception):
    """An error that one line explains.

    Attributes:
        exit_code: exit code of the command.
    """

    exit_code = 1


class InputError(AdcoError, ValueError):
    """Something given is impossible: a setting, an image folder, a file. The line says what to give instead."""

    exit_code = 2
