"""Tables of what was found, as .csv or .parquet."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from adco.embeddings.formats import import_pyarrow
from adco.errors import InputError
from adco.files import check_writable, replacing
from adco.words import unicode

SUFFIXES = (".csv", ".parquet")


def check_table(out: str) -> Path:
    """Return the absolute path of a table that is to be written.

    Raises:
        InputError: it exists or has another suffix; for Parquet, also if pyarrow is not installed.
    """
    path = check_new("out", out, SUFFIXES)
    if path.suffix == ".parquet":
        import_pyarrow()
    return path


def check_new(setting: str, file: str, suffixes: Sequence[str]) -> Path:
    """Return the absolute path of a file that is to be written.

    Raises:
        InputError: it exists, has another suffix, or cannot be written.
    """
    path = Path(file).expanduser().absolute()
    if path.suffix not in suffixes:
        raise InputError(f"{setting} {file} must end with {', '.join(suffixes)}")
    if path.exists():
        raise InputError(f"{setting} {file} exists: delete it, or choose another --{setting}")
    return check_writable(setting, file)


def write_table(path: Path, columns: Mapping[str, type], parts: Iterable[Mapping[str, Sequence[Any]]]) -> None:
    """Write a table whose rows come in parts, so that memory does not grow with their number.

    Args:
        path: .csv or .parquet.
        columns: names and types, str, int or float.
        parts: the values of each column.
    """
    with replacing(path) as file:
        (_write_csv if path.suffix == ".csv" else _write_parquet)(file, columns, parts)


def _write_csv(file: BinaryIO, columns: Mapping[str, type], parts: Iterable[Mapping[str, Sequence[Any]]]) -> None:
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text)  # ends lines with \r\n, and so quotes a \r or \n in a path
    writer.writerow(columns)
    for part in parts:
        for row in zip(*(part[name] for name in columns), strict=True):
            writer.writerow(f"{value:.6f}" if isinstance(value, float) else value for value in row)
    text.detach()


def _write_parquet(file: BinaryIO, columns: Mapping[str, type], parts: Iterable[Mapping[str, Sequence[Any]]]) -> None:
    pa, pq = import_pyarrow()
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float32()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(file, schema) as writer:
        for part in parts:
            writer.write_table(pa.table({name: _storable(part[name]) for name in columns}, schema=schema))


def _storable(values: Sequence[Any]) -> list[Any]:
    """Replace what is not Unicode in a path, which Parquet cannot hold."""
    return [unicode(value) if isinstance(value, str) else value for value in values]
