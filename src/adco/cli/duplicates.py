"""`adco duplicates`: duplicates among images, or between two folders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adco.cli.arguments import run_and_settings
from adco.cli.imports import import_lightning
from adco.errors import InputError
from adco.words import counted

if TYPE_CHECKING:
    from adco.embeddings.threshold import Choice


def duplicates(arguments: Sequence[str]) -> int:
    """Run `adco duplicates`."""
    from adco.config.commands import DuplicatesSettings

    purpose = "Find images that are altered copies of others: cropped, mirrored, resized, saved again or edited."
    run, settings = run_and_settings(DuplicatesSettings, "duplicates", purpose, arguments)
    settings.check()
    if not settings.out and not settings.sheet:
        raise InputError("give --out FILE.csv or --sheet FILE.jpg, or both: where to write the duplicates")
    import_lightning()
    from adco.embeddings.duplicates import duplicates as find

    found = find(run, settings)
    concerned, images = sum(map(len, found.groups)), counted(len(found.paths), "image")
    print(
        f"{counted(found.choice.found, 'pair')} in {counted(len(found.groups), 'group')}: {concerned} of {images}"
        if found.groups
        else f"no duplicates among {images}"
    )
    for line in _expected(found.choice):
        print(line)
    for file in (settings.out, settings.sheet):
        if file:
            print(file)
    return 0


def _expected(choice: "Choice") -> list[str]:
    """Return the threshold and the errors to expect of it."""
    false = "unknown, there are too few pairs to estimate them" if choice.false is None else f"{choice.false:.1f}"
    lines = [f"threshold: agreement {choice.threshold:.3f}; expected false pairs: {false}"]
    if choice.recall:
        kinds = ", ".join(f"{kind} {100 * share:.1f}" for kind, share in choice.recall.items())
        lines.append(f"altered copies of {counted(choice.copies, 'image')} found (%): {kinds}")
    return lines
