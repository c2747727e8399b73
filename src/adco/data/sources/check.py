"""Read all images of a folder, to find the damaged ones before training does."""

from collections.abc import Iterator
from pathlib import Path

from adco.data.sources.listing import list_images, split_folders
from adco.data.sources.protocol import Unreadable
from adco.data.sources.survey import survey
from adco.errors import InputError


def check_folder(folder: str | Path) -> Iterator[Unreadable | None]:
    """Read each image of a folder or of its splits; yield None for it if it can be read, otherwise the reason why not.

    Files that were read by an earlier check and have not changed since are not read again, even if the earlier check
    was interrupted.

    Raises:
        InputError: the folder does not exist, cannot be listed or has no images.
    """
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder: adco check needs a folder of images")
    try:
        listings = [list_images(split) for split in split_folders(root).values() or (root,)]
    except OSError as error:
        raise InputError(f"{str(folder)!r}: {error.filename} cannot be read: {error.strerror}") from error
    for listing in listings:
        for path, found in zip(listing.images, survey(listing.root, listing.images), strict=True):
            yield Unreadable(path, found) if isinstance(found, str) else None
