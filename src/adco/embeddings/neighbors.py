"""The nearest neighbours of images: `adco neighbors`.

Shapes: m queries, k neighbours of each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adco.config.commands import NeighborsSettings
from adco.data.sources.protocol import Source
from adco.embeddings.collection import Opened, open_collections
from adco.embeddings.rows import check_new, check_table, write_table
from adco.embeddings.sheet import SUFFIXES, Cell, chosen_rows, draw_sheet, write_sheet
from adco.errors import InputError
from adco.evaluation.nearest import nearest

COLUMNS = {"path": str, "rank": int, "neighbor": str, "similarity": float}
PART = 4096  # queries whose neighbours are written at once


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest neighbours of images.

    Args:
        queries: [m], where each image is that was searched for.
        paths: where each image is that was searched in.
        rows: [m, k], the neighbours of each query, nearest first, as indices into `paths`.
        similarities: [m, k] float32, their cosine similarities.
    """

    queries: list[str]
    paths: list[str]
    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


def neighbors(run: Path | None, settings: NeighborsSettings, images: Source | None = None) -> Neighbors:
    """Find the nearest neighbours of images, and write them to the files that the settings name.

    Args:
        run: run directory, checkpoint or backbone.safetensors; None for the network that the settings name or, if they
            name none, the newest run.
        settings: the images and the backbone.
        images: given from Python, instead of those that the settings name.

    Raises:
        InputError: a setting is impossible, the images or the backbone cannot be opened, or too many images cannot be
            read.
    """
    settings.check()
    out = check_table(settings.out) if settings.out else None
    sheet = check_new("sheet", settings.sheet, SUFFIXES) if settings.sheet else None
    other = ("query", settings.query, "all") if settings.query else None
    opened = open_collections(run, settings, other, images, needs_images=bool(sheet), needs_backbone=bool(other))
    found = _find(opened, settings.k)
    if out:
        write_table(out, COLUMNS, _parts(found))
    if sheet:
        write_sheet(sheet, draw_sheet(_rows_of_sheet(found, opened)))
    return found


def _find(opened: Opened, k: int) -> Neighbors:
    images, queries = opened.images, opened.other or opened.images
    if opened.other is None:
        itself = np.arange(len(images))
    else:
        row_of = {path: row for row, path in enumerate(images.paths) if not path.isdecimal()}  # a number is no path
        itself = np.array([row_of.get(path, -1) for path in queries.paths])
    most = len(images) - bool((itself >= 0).any())
    if most < 1:
        raise InputError("there is only one image: it has no neighbours")
    bank = images.directions.to(opened.device)
    similarities, rows = nearest(queries.directions, bank, min(k, most), torch.from_numpy(itself))
    return Neighbors(queries.paths, images.paths, rows.cpu().numpy(), similarities.cpu().numpy())


def _parts(found: Neighbors) -> Iterator[dict[str, list[Any]]]:
    """Yield the rows of the table."""
    k = found.rows.shape[1]
    for start in range(0, len(found.queries), PART):
        queries, rows = found.queries[start : start + PART], found.rows[start : start + PART]
        yield {
            "path": [path for path in queries for _ in range(k)],
            "rank": [*range(1, k + 1)] * len(queries),
            "neighbor": [found.paths[row] for row in rows.ravel().tolist()],
            "similarity": found.similarities[start : start + PART].ravel().tolist(),
        }


def _rows_of_sheet(found: Neighbors, opened: Opened) -> list[list[Cell]]:
    """Return some queries, each with its neighbours and their similarity."""

    queries = opened.other or opened.images
    return [
        [
            (queries.image(query), Path(found.queries[query]).name),
            *(
                (opened.images.image(row), f"{similarity:.3f}")
                for row, similarity in zip(found.rows[query].tolist(), found.similarities[query].tolist(), strict=True)
            ),
        ]
        for query in chosen_rows(len(found.queries)).tolist()
    ]
