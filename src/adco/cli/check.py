"""`adco check`: read all images of a folder and list the damaged ones."""

from collections.abc import Sequence

from adco.errors import InputError

HELP = """\
usage: adco check FOLDER

Read all images of a folder, or of the train and test folders in it, and list those that cannot be read. The exit code
is 0 if all can be read, otherwise 1. A check that was stopped continues where it was: start it again.
"""


def check(arguments: Sequence[str]) -> int:
    """Run `adco check`."""
    if {"-h", "--help"} & {*arguments}:
        print(HELP, end="")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError(
            f"give one folder: adco check FOLDER; it takes no flags (got {' '.join(arguments) or 'nothing'})"
        )
    from adco.data.sources.check import check_folder

    files = damaged = 0
    for found in check_folder(arguments[0]):
        files += 1
        if found:
            damaged += 1
            print(f"{found.path}: {found.reason}")
    print(f"{files - damaged:,} of {files:,} files in {arguments[0]} can be read")
    return 1 if damaged else 0
