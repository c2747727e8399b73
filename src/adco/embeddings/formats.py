"""The files that embeddings are written to, by their suffix: .npz, .parquet or .csv.

| suffix     | contents                                                                                           |
|------------|----------------------------------------------------------------------------------------------------|
| `.npz`     | arrays `paths` [n], `labels` [n], `classes` [C] and `embeddings` [n, F]                            |
| `.parquet` | columns `path`, `label` (the name of the class, null for none) and `embedding`, a list of F floats |
| `.csv`     | columns `path`, `label` and `e0` … `eF−1`                                                          |

Rows come in parts and are written as they come, so that memory does not grow with the number of images.

Shapes: n images, C classes, F feature width.
"""

import csv
import io
import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from adco.embeddings.embeddings import Embeddings
from adco.errors import InputError
from adco.untrusted import check_memory, read_npz, reading
from adco.words import unicode

OTHER = "is not a file of adco embed, or is damaged"


@dataclass(frozen=True)
class Table:
    """Embeddings whose rows come in parts, which can be gone through more than once.

    Args:
        rows: n.
        width: F.
        classes: class names; None if the images have no classes.
        parts: returns the parts in order.
    """

    rows: int
    width: int
    classes: tuple[str, ...] | None
    parts: Callable[[], Iterable[Embeddings]]


def writer_of(path: Path) -> Callable[[BinaryIO, Table], None]:
    """Return the function that writes a file of this suffix.

    Raises:
        InputError: no such file can be written; for Parquet, also if pyarrow is not installed.
    """
    if path.suffix not in WRITERS:
        raise InputError(f"out {path} must end with {', '.join(WRITERS)}")
    if path.suffix == ".parquet":
        import_pyarrow()
    return WRITERS[path.suffix]


def read_embeddings(path: Path) -> Embeddings:
    """Return the embeddings in a file that `adco embed` has written.

    Raises:
        InputError: it does not exist, or is not such a file.
    """
    if path.suffix not in READERS:
        raise InputError(f"embeddings {path} must end with {', '.join(READERS)}")
    if not path.exists():
        raise InputError(f"there is no file {path}: make it with adco embed")
    if path.suffix == ".parquet":
        import_pyarrow()
    with reading(path, says=OTHER):
        found = READERS[path.suffix](path)
        values = found.embeddings
        if values.size == 0 or not np.isfinite(values).all():
            raise ValueError(f"its embeddings {list(values.shape)} are empty, or not all finite")
    return found


def _write_npz(file: BinaryIO, table: Table) -> None:
    longest = max((len(path) for part in table.parts() for path in part.paths), default=1)
    columns: dict[str, tuple[np.dtype[np.generic], tuple[int, ...], Callable[[Embeddings], NDArray[np.generic]]]] = {
        "paths": (np.dtype(f"<U{max(1, longest)}"), (table.rows,), lambda part: np.array(part.paths)),
        "embeddings": (np.dtype("<f4"), (table.rows, table.width), lambda part: part.embeddings),
    }
    if table.classes is not None:
        columns["labels"] = (np.dtype("<i8"), (table.rows,), lambda part: _labels(part))
    with zipfile.ZipFile(file, "w") as archive:
        for name, (dtype, shape, values) in columns.items():
            kind = zipfile.ZIP_DEFLATED if name == "paths" else zipfile.ZIP_STORED  # paths have the longest's width
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = kind
            with archive.open(entry, "w", force_zip64=True) as opened:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(opened, header)
                for part in table.parts():
                    opened.write(np.ascontiguousarray(values(part).astype(dtype)).tobytes())
        if table.classes is not None:
            with archive.open("classes.npy", "w") as opened:
                np.lib.format.write_array(opened, np.array(table.classes, np.str_))


def _read_npz(path: Path) -> Embeddings:
    found = read_npz(path, says=OTHER)
    classes = tuple(map(str, found["classes"].tolist())) if "classes" in found else ()
    labels = found["labels"].astype(np.int64, casting="same_kind") if classes else None
    if labels is not None and not (labels.ndim == 1 and labels.min() >= -1 and labels.max() < len(classes)):
        raise ValueError(f"its labels are not those of {len(classes)} classes")
    embeddings = found["embeddings"].astype(np.float32, casting="same_kind")
    return Embeddings(list(map(str, found["paths"].tolist())), labels, classes, embeddings)


def _write_csv(file: BinaryIO, table: Table) -> None:
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
    write = csv.writer(text)  # ends lines with \r\n, and so quotes a \r or \n in a path
    write.writerow(["path", "label", *(f"e{number}" for number in range(table.width))])
    for part in table.parts():
        for path, label, row in zip(part.paths, _label_names(part), part.embeddings, strict=True):
            digits = (f"{value:.9g}" for value in row.tolist())  # so many tell all float32 numbers apart
            write.writerow([path, label or "", *digits])
    text.detach()


def _read_csv(path: Path) -> Embeddings:
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        if content.read() != b"\n":
            raise ValueError("its last line is cut")
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        if next(rows, [])[:2] != ["path", "label"]:
            raise ValueError("its columns are not path, label, e0, …")
        paths, names, values = [], list[str | None](), []
        for path_of_image, label, *embedding in rows:
            paths.append(path_of_image)
            names.append(label or None)
            values.append(np.array(embedding, np.float32))
    return _with_names(paths, names, np.stack(values))


def _write_parquet(file: BinaryIO, table: Table) -> None:
    pa, pq = import_pyarrow()
    embedding = pa.list_(pa.float32(), table.width)
    schema = pa.schema([("path", pa.string()), ("label", pa.string()), ("embedding", embedding)])
    with pq.ParquetWriter(file, schema) as writer:
        for part in table.parts():
            paths = [unicode(path) for path in part.paths]
            flat = pa.array(part.embeddings.reshape(-1))
            columns = [pa.array(paths), pa.array(_label_names(part), pa.string())]
            writer.write_table(
                pa.table([*columns, pa.FixedSizeListArray.from_arrays(flat, table.width)], schema=schema)
            )


def _read_parquet(path: Path) -> Embeddings:
    _, pq = import_pyarrow()
    paths, names, chunks, size = list[str](), list[str | None](), list[NDArray[np.float32]](), 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["path", "label", "embedding"]):
            size += batch.nbytes
            check_memory(size)  # a small file may hold many times the same values
            paths += map(str, batch["path"].to_pylist())
            names += [None if name is None else str(name) for name in batch["label"].to_pylist()]
            chunks.append(np.stack(batch["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32))
    return _with_names(paths, names, np.concatenate(chunks))


def import_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow and pyarrow.parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("Parquet files need pyarrow: pip install 'adco[parquet]'") from error
    return pyarrow, pyarrow.parquet


def _labels(part: Embeddings) -> NDArray[np.int64]:
    return np.full(len(part), -1) if part.labels is None else part.labels


def _label_names(part: Embeddings) -> list[str | None]:
    """Return the class name of each image; None for an image without a class."""
    return [part.classes[label] if label >= 0 else None for label in _labels(part).tolist()]


def _with_names(paths: list[str], names: Iterable[str | None], embeddings: NDArray[np.float32]) -> Embeddings:
    """Return embeddings with labels that are indices into the sorted class names."""
    names = list(names)
    classes = tuple(sorted({name for name in names if name is not None}))
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([-1 if name is None else number[name] for name in names], np.int64) if classes else None
    return Embeddings(paths, labels, classes, embeddings)


WRITERS = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}
READERS = {".npz": _read_npz, ".parquet": _read_parquet, ".csv": _read_csv}
