"""The arguments that most commands have: a run, and flags for one class of settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from adco.config.load import Parser

Settings = TypeVar("Settings")


def run_and_settings(
    settings: type[Settings], command: str, purpose: str, arguments: Sequence[str]
) -> tuple[Path | None, Settings]:
    """Return the run that the arguments of a command name, None if they name none, and the settings.

    Args:
        settings: class of the command's settings.
        command: its name.
        purpose: its description in --help.
        arguments: what follows the command.

    Raises:
        InputError: with a one-line message.
    """
    from adco.config.load import Parser

    parser = Parser([settings], f"adco {command}", purpose, "[RUN]")
    add_run(parser)
    flags = parser.read_flags(arguments)
    (chosen,) = parser.construct(flags)
    return Path(flags.run) if flags.run else None, chosen


def add_run(parser: "Parser", use: str = "") -> None:
    """Add the optional argument RUN to a parser; `use` says what it is for, in --help."""
    what = f"run directory, checkpoint or backbone.safetensors{use}; by default the newest run"
    parser.add_argument("run", nargs="?", metavar="RUN", help=what)
