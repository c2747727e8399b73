"""What an export format is: how a network is written, and the line of Python that loads it.

A new format is a subclass of `Format` in one file, and a line in `FORMATS` (registry.py). An export runs the format's
line on what it has written, so a line that does not work, or gives other features, is an error.

Shapes: N images, C channels, S side of the images in pixels, F feature width.
"""

from pathlib import Path
from typing import ClassVar

from adco.exporting.network import Network


class Format:
    """A file format, or a folder, for networks."""

    SUFFIX: ClassVar[str]  # ends the default name of the file or folder
    OPTIONS: ClassVar[frozenset[str]] = frozenset()  # which of the settings normalize and half the format takes
    PACKAGES: ClassVar[tuple[str, ...]] = ()  # needed, beside those that adco needs
    INSTALL: ClassVar[str] = ""  # how to get them
    TAKES_ARRAYS: ClassVar[bool] = False  # whether images and features are NumPy arrays, not tensors

    def check(self, network: Network) -> None:
        """Raise an InputError if the format cannot hold this network."""

    def write(self, network: Network, path: Path) -> None:
        """Write a network to a path where nothing is yet."""
        raise NotImplementedError

    def line(self, network: Network, path: Path) -> str:
        """Return a line of Python that loads what is at a path and maps `images` [N, C, S, S] to the network's output.

        It gives the output the name `features` or `logits`, see `Network.output`. It needs neither adco nor any other
        name than `images`.
        """
        raise NotImplementedError
