"""`adco neighbors`: the nearest neighbours of images."""

from collections.abc import Sequence

from adco.cli.arguments import run_and_settings
from adco.cli.imports import import_lightning
from adco.errors import InputError


def neighbors(arguments: Sequence[str]) -> int:
    """Run `adco neighbors`."""
    from adco.config.commands import NeighborsSettings

    purpose = "Find the images that are nearest to an image, to those of a folder or to each image, by a backbone."
    run, settings = run_and_settings(NeighborsSettings, "neighbors", purpose, arguments)
    settings.check()
    if not settings.out and not settings.sheet:
        raise InputError("give --out FILE.csv or --sheet FILE.jpg, or both: where to write the neighbours")
    import_lightning()
    from adco.embeddings.neighbors import neighbors as find

    find(run, settings)
    for file in (settings.out, settings.sheet):
        if file:
            print(file)
    return 0
