"""`list:FILE`: the images that a text file names, one path per line, or a CSV file, with optional labels.

    cats/1.jpg              path,label
    dogs/7.jpg              cats/1.jpg,cat
                            dogs/7.jpg,dog

Paths are absolute, or relative to the folder of the file. In a CSV file, a first row with a cell `path` is a header.
Without a header, the first column is the path and the second, if there is one, the label.
"""

import csv
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adco.data.sources.encoded import EncodedSource
from adco.data.sources.labels import Labels, number_classes
from adco.data.sources.paths import Paths
from adco.data.sources.reading import RGB, Reading
from adco.data.sources.registry import Split
from adco.errors import InputError

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


def source_of_files(name: str, paths: Paths, given: Labels, layout: str = "", reading: Reading = RGB) -> EncodedSource:
    """Return a source of image files; its arguments are those of `EncodedSource`. No file is opened."""
    return EncodedSource(name, Files(paths), np.arange(len(paths)), given, layout, reading)


def open_list(address: str, split: Split) -> EncodedSource | None:
    """Open the images that a file names. There is no test split.

    Raises:
        InputError: the file cannot be read, names a file that does not exist, or names none.
    """
    if split == "test":
        return None
    file = Path(address).expanduser().absolute()
    name = f"list:{address}"
    try:
        if file.exists() and not file.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")
        text = file.read_bytes().decode("utf-8-sig")  # without the mark that spreadsheets write first
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"data {name!r} cannot be read: {why}") from error
    lines = text.removesuffix("\n").split("\n")  # splitlines also splits within names
    is_table = file.suffix.lower() == ".csv"
    rows = list(_table(name, lines) if is_table else _lines(lines))
    if not rows:
        raise InputError(f"data {name!r} names no images")
    paths = [os.path.join(file.parent, path) for _, path, _ in rows]  # noqa: PTH118 (many, and a string is wanted)
    for (line, given, _), path in zip(rows, paths, strict=True):
        if not os.path.isfile(path):  # noqa: PTH113
            hint = _hint(lines[:line], given, is_table=is_table)
            raise InputError(f"data {name!r}, line {line}: there is no file {given} ({path}){hint}")
    files = Paths.absolute(paths)
    return source_of_files(name, files, number_classes([label for *_, label in rows]))


def _lines(lines: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, line.strip(), ""


def _table(name: str, lines: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
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
                f"data {name!r}, line {number}: {len(cells)} columns without a header: the first row must be "
                f"path,label, not {','.join(rows[0][1])}"
            )
        if len(cells) <= path or not cells[path]:
            raise InputError(f"data {name!r}, line {number}: there is no path")
        yield number, cells[path], cells[label] if label is not None and label < len(cells) else ""


def _hint(lines: Sequence[str], given: str, *, is_table: bool) -> str:
    """Return what else the first line may be than the path of a file that does not exist; "" for the other lines.

    Args:
        lines: up to this one.
        given: the path.
        is_table: whether it is a line of a CSV file.
    """
    if any(line.strip() for line in lines[:-1]):
        return ""
    if not is_table:
        return "; labels and a header need a .csv file"
    if delimiter := next((mark for mark in ";\t" if mark in given), ""):
        return f"; its delimiter is {delimiter!r}, but must be ',', as in path,label"
    return f"; if {lines[-1].strip()} is a header, it must be path,label"
