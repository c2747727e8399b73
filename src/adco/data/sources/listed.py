"""`list:FILE`: the images that a text file names, one path per line, or a CSV file, with optional labels.

    cats/1.jpg              path,label
    dogs/7.jpg              cats/1.jpg,cat
                            dogs/7.jpg,dog

Paths are absolute, or relative to the folder of the file. In a CSV file, a first row with a cell `path` is a header.
Without a header, the first column is the path and the second, if there is one, the label.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adco.data.sources.encoded import EncodedSource
from adco.data.sources.labels import number_classes
from adco.data.sources.paths import Paths
from adco.data.sources.registry import Split
from adco.errors import InputError
from adco.words import counted

Row = tuple[int, str, str]  # number of the line, path, label or ""


@dataclass(frozen=True, eq=False)
class Files:
    """A store of image files."""

    paths: Paths

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """Return the content of a file."""
        return self.paths[index].read_bytes()

    def where(self, index: int) -> str:
        """Return the path of a file."""
        return str(self.paths[index])


def open_list(address: str, split: Split) -> EncodedSource | None:
    """Open the images that a file names. There is no test split.

    Raises:
        InputError: the file cannot be read, names a file that does not exist, or names fewer than two.
    """
    if split == "test":
        return None
    file = Path(address).expanduser().absolute()
    name = f"list:{address}"
    try:
        text = file.read_text(encoding="utf-8-sig")  # without the mark that spreadsheets write first
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"data {name!r} cannot be read: {why}") from error
    rows = list(_table(name, text) if file.suffix.lower() == ".csv" else _lines(text))
    if len(rows) < 2:
        raise InputError(f"data {name!r} names {counted(len(rows), 'image')}: at least two are needed")
    paths = [os.path.join(file.parent, path) for _, path, _ in rows]  # noqa: PTH118 (many, and a string is wanted)
    for (line, given, _), path in zip(rows, paths, strict=True):
        if not os.path.isfile(path):  # noqa: PTH113
            raise InputError(f"data {name!r}, line {line}: there is no file {given} ({path})")
    files = Files(Paths.below("/", b"".join(os.fsencode(path) + b"\0" for path in paths)))
    return EncodedSource(name, files, np.arange(len(files)), number_classes([label for *_, label in rows]))


def _lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip(), ""


def _table(name: str, text: str) -> Iterator[Row]:
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"data {name!r}, line {reader.line_num}: {error}") from error
    rows = [(number, cells) for number, cells in rows if any(cells)]
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    has_header = "path" in header
    path = header.index("path") if has_header else 0
    label = (header.index("label") if "label" in header else None) if has_header else 1
    for number, cells in rows[has_header:]:
        if not has_header and len(cells) > 2:
            raise InputError(
                f"data {name!r}, line {number}: {len(cells)} columns without a header: the first row must be path,label"
            )
        if len(cells) <= path or not cells[path]:
            raise InputError(f"data {name!r}, line {number}: there is no path")
        yield number, cells[path], cells[label] if label is not None and label < len(cells) else ""
