"""`adco neighbors`: the nearest neighbours of images."""

from collections.abc import Sequence
from pathlib import Path

from adco.cli.imports import import_lightning
from adco.errors import InputError


def neighbors(arguments: Sequence[str]) -> int:
    """Run `adco neighbors`."""
    from adco.config.commands import NeighborsSettings
    from adco.config.load import Parser

    purpose = "Find the images that are nearest to an image, to those of a folder or to each image, by a backbone."
    parser = Parser([NeighborsSettings], "adco neighbors", purpose, "[RUN]")
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="run directory, checkpoint or backbone.safetensors; by default the newest run",
    )
    flags = parser.read_flags(arguments)
    (settings,) = parser.construct(flags)
    settings.check()
    if not settings.out and not settings.sheet:
        raise InputError("give --out FILE.csv or --sheet FILE.jpg, or both: where to write the neighbours")
    import_lightning()
    from adco.embeddings.neighbors import neighbors as find

    find(Path(flags.run) if flags.run else None, settings)
    for file in (settings.out, settings.sheet):
        if file:
            print(file)
    return 0
