"""A resumed run goes on with the images that it began with."""

import logging
import os

from adco.data.sources.folder import FolderSource
from adco.data.sources.protocol import Source
from adco.errors import InputError
from adco.launcher import is_first_rank
from adco.runs.directory import RunDirectory
from adco.words import counted

NAMED = 3  # files that a message names


def file_names(source: Source) -> bytes | None:
    """Return the paths of the images in their folder, each followed by a zero byte; None for other sources."""
    return source.paths.names if isinstance(source, FolderSource) else None


def same_images(run: RunDirectory, source: Source, accept: bool) -> Source:
    """Return the images that a run began with, in the same order.

    Args:
        run: the run.
        source: the images that there are now. The folder may be another one than when the run began.
        accept: if images are gone or new, leave out the new ones. Those that are gone are treated as those that were
            damaged since the run began: training takes the next one in their place, and counts them.

    Raises:
        InputError: if there are other images than when the run began, unless this is accepted. Only images of a folder
            are known by their names; of others, the number is compared.
    """
    before, now = run.read_file_names(), file_names(source)
    if before is None or now is None or not isinstance(source, FolderSource):
        number = run.read_environment().get("images", len(source))
        if len(source) != number:
            raise InputError(
                f"{source.name} has {counted(len(source), 'image')}, but the run had {number:,}: start a new run"
            )
        return source
    if before == now:
        return source
    old, new = (dict.fromkeys(names.split(b"\0")[:-1]) for names in (before, now))
    damaged, repaired = {str(file.path) for file in source.unreadable}, run.read_left_out()
    gone = [n for n in old if n not in new and os.path.join(source.paths.root, os.fsdecode(n)) not in damaged]  # noqa: PTH118
    added = [n for n in new if n not in old and not any(file.endswith(f"/{os.fsdecode(n)}") for file in repaired)]
    if not gone and not added:
        return source.with_names(before)
    changes = "; ".join(_listed(what, names) for what, names in (("gone", gone), ("new", added)) if names)
    if not accept:
        raise InputError(
            f"the images of {source.name} are not those that {run.path} began with ({changes}): put them back, or add "
            "--changed_data to go on with those that are left"
        )
    if is_first_rank():
        logging.getLogger("adco").warning(f"warning: the images of {source.name} have changed: {changes}")
    return source.with_names(before)


def _listed(what: str, names: list[bytes]) -> str:
    shown = ", ".join(os.fsdecode(name) for name in names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f"{len(names):,} {what}: {shown}"
