"""Duplicates among images, or between two collections: `adco duplicates`.

The embeddings propose each image's nearest neighbours, and the agreement of the pixels decides. The threshold is chosen
with altered copies of some of the images.

Shapes: n images, m further images, k neighbours, P pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adco.config.commands import DuplicatesSettings
from adco.data.sources.protocol import Source
from adco.embeddings.agreement import Thumbnails, agreements, thumbnails_of
from adco.embeddings.collection import Opened, open_collections
from adco.embeddings.copies import KINDS, copies_of
from adco.embeddings.embed import embed_source
from adco.embeddings.groups import groups_of
from adco.embeddings.rows import check_new, check_table, write_table
from adco.embeddings.sheet import SUFFIXES, Cell, chosen_rows, draw_sheet, write_sheet
from adco.embeddings.threshold import Choice, choose_threshold, given_threshold
from adco.errors import InputError
from adco.evaluation.nearest import nearest
from adco.evaluation.subject import Subject
from adco.files import write_json

SAMPLE = 500  # images of which copies are made
SEED = 0  # of the sample and the copies
LONGEST_ROW = 10  # images of a group that a sheet shows
COLUMNS = {"path": str, "duplicate": str, "agreement": float, "similarity": float, "group": int}
PART = 65_536  # pairs that are written at once


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Duplicates, and what errors to expect of them.

    Args:
        paths: where each image is; the further images after the others.
        pairs: [P, 2], indices into `paths`, the largest agreement first; with further images, one of each.
        agreements: [P] float32, of the pixels, 0 to 1.
        similarities: [P] float32, cosine similarities of the embeddings.
        groups: the connected components of the pairs, as indices into `paths`.
        choice: the threshold and its expected errors.
    """

    paths: list[str]
    pairs: NDArray[np.int64]
    agreements: NDArray[np.float32]
    similarities: NDArray[np.float32]
    groups: list[NDArray[np.int64]]
    choice: Choice

    def surest_first(self) -> tuple[list[NDArray[np.int64]], NDArray[np.float32]]:
        """Return the groups, the surest first, and the largest agreement of each image, 0 for one in no pair."""
        best = np.zeros(len(self.paths), np.float32)
        np.maximum.at(best, self.pairs.ravel(), np.repeat(self.agreements, 2))
        return sorted(self.groups, key=lambda group: -float(best[group].max())), best


def duplicates(run: Path | None, settings: DuplicatesSettings, images: Source | None = None) -> Duplicates:
    """Find duplicates, and write them to the files that the settings name.

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
    summary = check_new("out", str(out.with_suffix(".json")), (".json",)) if out else None
    sheet = check_new("sheet", settings.sheet, SUFFIXES) if settings.sheet else None
    other = ("against", settings.against, settings.against_split) if settings.against else None
    needs_backbone = settings.threshold is None
    opened = open_collections(run, settings, other, images, needs_images=True, needs_backbone=needs_backbone)
    found = find(opened, settings)
    if out and summary:
        write_table(out, COLUMNS, _parts(found))
        write_json(summary, _summary(found, opened))
    if sheet:
        write_sheet(sheet, draw_sheet(_rows_of_sheet(found, opened)))
    return found


def find(opened: Opened, settings: DuplicatesSettings) -> Duplicates:
    """Find duplicates among images that are opened. Of the settings, `k` and `threshold` are used."""
    images, other = opened.images, opened.other
    k = min(settings.k, len(other) if other else len(images) - 1)
    if k < 1:
        raise InputError("there is only one image: it has no duplicates")
    thumbnails = thumbnails_of(images.source)
    others = thumbnails_of(other.source) if other else thumbnails
    pairs, similarities = _candidates(opened, k)
    agreed = agreements(thumbnails, others, pairs, opened.device)
    if settings.threshold is None:
        assert opened.subject is not None
        choice = choose_threshold(_of_copies(opened, opened.subject, thumbnails, k), agreed)
    else:
        choice = given_threshold(settings.threshold, agreed)
    chosen = np.flatnonzero(agreed >= choice.threshold)
    chosen = chosen[np.argsort(-agreed[chosen], kind="stable")]
    pairs = pairs[chosen] + (np.array([0, len(images)]) if other else 0)
    paths = images.paths + (other.paths if other else [])
    return Duplicates(paths, pairs, agreed[chosen], similarities[chosen], groups_of(pairs, len(paths)), choice)


def _candidates(opened: Opened, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return pairs of which one is among the k nearest of the other, [P, 2] in order, and their similarities [P]."""
    images, other = (
        None if part is None else part.directions.to(opened.device) for part in (opened.images, opened.other)
    )
    assert images is not None
    if other is None:
        similarities, rows = nearest(images, images, k, torch.arange(len(images)))
        pairs = _pairs(rows)
        pairs = pairs.sort(1).values  # both orders of a pair are one
    else:
        (similarities, rows), (back, back_rows) = (
            nearest(images, other, k),
            nearest(other, images, min(k, len(images))),
        )
        pairs = torch.cat([_pairs(rows), _pairs(back_rows).flip(1)])
        similarities = torch.cat([similarities.flatten(), back.flatten()])
    unique, place = np.unique(pairs.cpu().numpy(), axis=0, return_inverse=True)
    of_unique = np.empty(len(unique), np.float32)
    of_unique[place.ravel()] = similarities.flatten().cpu().numpy()
    return unique, of_unique


def _pairs(rows: torch.Tensor) -> torch.Tensor:
    """Return the pairs of queries and their neighbours, [n, k] → [n · k, 2]."""
    queries = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    return torch.stack([queries, rows], 2).flatten(0, 1)


def _of_copies(opened: Opened, subject: Subject, thumbnails: Thumbnails, k: int) -> dict[str, NDArray[np.float64]]:
    """Return the agreement of copies of some images with these images, for each kind; NaN for those not compared.

    A copy is compared if it would be among the k nearest of its image, or its image among the k nearest of the copy.
    """
    images = opened.images
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(images))[:SAMPLE])
    bank = (opened.other or images).directions.to(opened.device)
    originals = images.directions[chosen].to(opened.device)
    itself = None if opened.other else torch.from_numpy(chosen)
    least = nearest(originals, bank, k, itself)[0][:, -1]  # [M], of a neighbour of the image
    found = {}
    for kind in KINDS:
        copies = copies_of(images.source.subset(chosen), kind, SEED)
        embeddings, _ = embed_source(subject, copies, opened.device, progress=False)
        directions = torch.from_numpy(embeddings.directions).to(opened.device)
        similarities = (directions * originals).sum(1)
        of_copies = nearest(directions, images.directions.to(opened.device), min(k, len(images)))[0][:, -1]
        compared = (similarities >= torch.minimum(least, of_copies) - 1e-6).cpu().numpy()
        pairs = np.stack([chosen, np.arange(len(chosen))], 1)
        agreed = agreements(thumbnails, thumbnails_of(copies), pairs, opened.device)
        found[kind] = np.where(compared, agreed.astype(np.float64), np.nan)
    return found


def _parts(found: Duplicates) -> Iterator[dict[str, list[Any]]]:
    """Yield the rows of the table."""
    group_of = np.zeros(len(found.paths), np.int64)
    for number, group in enumerate(found.groups, 1):
        group_of[group] = number
    for start in range(0, len(found.pairs), PART):
        part = slice(start, start + PART)
        ones, others = found.pairs[part].T
        yield {
            "path": [found.paths[one] for one in ones],
            "duplicate": [found.paths[other] for other in others],
            "agreement": found.agreements[part].tolist(),
            "similarity": found.similarities[part].tolist(),
            "group": group_of[ones].tolist(),
        }


def _summary(found: Duplicates, opened: Opened) -> dict[str, Any]:
    """Return what is written beside the table."""
    return {
        "images": len(opened.images),
        **({"against": len(opened.other)} if opened.other else {}),
        "groups": len(found.groups),
        "images_in_groups": sum(map(len, found.groups)),
        "pairs": found.choice.found,
        "expected_false_pairs": found.choice.false,
        "threshold": found.choice.threshold,
        "images_copied": found.choice.copies,
        "recall_of_copies": found.choice.recall,
    }


def _rows_of_sheet(found: Duplicates, opened: Opened) -> list[list[Cell]]:
    """Return some groups, the surest first, each as its images."""
    groups, best = found.surest_first()
    chosen = [groups[number] for number in chosen_rows(len(groups)).tolist()] if groups else []
    return [
        [(opened.image(index), f"{best[index]:.2f} {Path(found.paths[index]).name}") for index in group.tolist()]
        for group in (group[:LONGEST_ROW] for group in chosen)
    ]
