"""A run that is continued by the line that began it: the line must have the settings of the run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adco.errors import InputError


def require_same(asked: Any, before: Any, names: Iterable[str], run: Path) -> None:
    """Raise an InputError that names the first setting that is not that of the run.

    Args:
        asked: the settings of the line.
        before: the settings of the run.
        names: of the settings to compare; those that the line leaves open, None or auto, are the same.
        run: the run directory, for the message.
    """
    for name in names:
        now, then = getattr(asked, name, None), getattr(before, name, None)
        if now not in (None, "auto", then):
            raise InputError(f"{name} is {now}, but the run in {run} began with {then}: choose another --out")
