"""Embedding images with a backbone: into arrays, or into a file, block by block.

embeddings = embed(None, EmbedSettings(data="photos/", backbone="resnet18", weights="pretrained"))
embed_to_file(run, EmbedSettings(data="photos/", out="photos.parquet"))
"""

import hashlib
import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adco.config.commands import EmbedSettings
from adco.data.damage import count_files, list_files, too_many
from adco.data.sources.address import full_name
from adco.data.sources.open import open_all, open_source
from adco.data.sources.protocol import Source, Unreadable, read_as, where
from adco.data.sources.reading import Reading
from adco.devices import evaluation_device
from adco.embeddings.blocks import BLOCK, Block, count_blocks, embed_blocks
from adco.embeddings.embeddings import Embeddings
from adco.embeddings.formats import Table, writer_of
from adco.embeddings.parts import Parts
from adco.errors import InputError, same_in_all_processes
from adco.evaluation.subject import OpenImages, Subject, open_subject, shared_subject
from adco.files import check_writable, replacing
from adco.words import counted

logger = logging.getLogger("adco")


def embed(run: Path | None, settings: EmbedSettings, images: Source | None = None) -> Embeddings:
    """Return the embeddings of images as arrays.

    Args:
        run: run directory, checkpoint or backbone.safetensors; None for the network that the settings name or, if they
            name none, the newest run.
        settings: the images and the backbone; `out` and `devices` are not used.
        images: given from Python, instead of those that the settings name.

    Raises:
        InputError: a setting is impossible, the images or the backbone cannot be opened, or too many images cannot be
            read.
    """
    subject = open_subject(settings, run, _opener(settings, images))
    (source,) = subject.sources
    return embed_source(subject, source, evaluation_device(settings.device))[0]


def embed_source(
    subject: Subject, source: Source, device: str, progress: bool = True
) -> tuple[Embeddings, NDArray[np.int64]]:
    """Return the embeddings of the images of a source, and the index in the source of each.

    Args:
        subject: has the backbone, and the share of images that may be unreadable.
        source: the images.
        device: moves the backbone to it.
        progress: as for `embed_batches`.

    Raises:
        InputError: too many images cannot be read, or an embedding is not finite.
    """
    blocks = list(embed_blocks(subject, source, range(count_blocks(len(source))), device, progress))
    unreadable = _unreadable(blocks)
    _check_unreadable(source, unreadable, subject.max_unreadable)
    indices = np.concatenate([block.indices for block in blocks])
    values = np.concatenate([block.embeddings for block in blocks if len(block.indices)])
    return _with_names(source, indices, values, unreadable), indices


def embed_to_file(run: Path | None, settings: EmbedSettings) -> Path:
    """Write the embeddings of images to the file `settings.out`, and return its path.

    Blocks that are done are kept in a folder beside it, so that the same call continues after an interruption. Several
    processes, started by `devices` or a launcher, share the blocks; the first one writes the file.

    Raises:
        InputError: as `embed`; or the file exists, or has no known suffix.
    """
    with same_in_all_processes():
        out = _checked_out(settings)
        write = writer_of(out)
    with shared_subject(settings, run, _opener(settings, None), settings.devices) as (subject, device, group):
        (source,) = subject.sources
        with same_in_all_processes():
            parts = Parts(out, _plan(subject, settings))
        group.go_on = f"the same command goes on: {parts.folder} has what is done"
        blocks = range(count_blocks(len(source)))
        missing = group.decided_by_first(lambda: [number for number in blocks if not parts.has(number)])
        if group.rank == 0:
            logger.info(f"embedding {source.description}")
            if done := len(blocks) - len(missing):
                logger.info(f"{min(done * BLOCK, len(source)):,} of {len(source):,} images are done: {parts.folder}")

        def write_parts() -> Iterator[int]:
            for block in embed_blocks(subject, source, group.share(missing), device, progress=group.rank == 0):
                parts.write(block)
                yield block.number

        def write_file() -> Path:
            table = _table(source, subject.max_unreadable, lambda: map(parts.read, blocks))
            with replacing(out) as file:
                write(file, table)
            parts.delete()
            logger.info(f"{counted(table.rows, 'embedding')} of width {table.width}: {out}")
            return out

        deque(group.in_order(write_parts()), maxlen=0)
        return group.decided_by_first(write_file)


def _opener(settings: EmbedSettings, images: Source | None) -> OpenImages:
    def open_images(data: str, class_level: int, max_unreadable: float, reading: Reading) -> list[Source]:
        if images is not None:
            return [read_as(images, reading)]
        if settings.split == "all":
            return [open_all(data, max_unreadable, class_level, reading)]
        return [open_source(data, settings.split, max_unreadable, class_level, reading)]

    return open_images


def _checked_out(settings: EmbedSettings) -> Path:
    settings.check()
    if settings.out is None:
        raise InputError("give --out, the file to write: FILE.parquet, FILE.npz or FILE.csv")
    out = Path(settings.out).expanduser().absolute()
    if out.exists():
        raise InputError(f"out {settings.out} exists: delete it, or choose another --out")
    return check_writable("out", settings.out)


def _plan(subject: Subject, settings: EmbedSettings) -> dict[str, Any]:
    return {
        "data": full_name(subject.data),
        "split": settings.split,
        "images": len(subject.sources[0]),
        "image_size": subject.image_size,
        "backbone": _fingerprint(subject.backbone),
        "block": BLOCK,
    }


def _fingerprint(backbone: nn.Module) -> str:
    """Return a hash of the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _table(source: Source, max_unreadable: float, blocks: Callable[[], Iterable[Block]]) -> Table:
    """Return the rows of all blocks, which are read again each time, so that only one is in memory."""
    unreadable, rows, width = list[Unreadable](), 0, 0
    for block in blocks():
        unreadable += _unreadable([block])
        rows, width = rows + len(block.indices), max(width, block.embeddings.shape[1])
    _check_unreadable(source, unreadable, max_unreadable)

    def parts() -> Iterator[Embeddings]:
        return (_with_names(source, block.indices, block.embeddings) for block in blocks() if len(block.indices))

    return Table(rows, width, source.classes if source.labels is not None else None, parts)


def _with_names(
    source: Source, indices: NDArray[np.int64], values: NDArray[np.float32], unreadable: Sequence[Unreadable] = ()
) -> Embeddings:
    paths = [where(source, index) for index in indices.tolist()]
    labels = None if source.labels is None else source.labels[indices]
    return Embeddings(paths, labels, source.classes, values, tuple(unreadable))


def _unreadable(blocks: Iterable[Block]) -> list[Unreadable]:
    return [file for block in blocks for _, file in sorted(block.unreadable.items())]


def _check_unreadable(source: Source, unreadable: Sequence[Unreadable], max_unreadable: float) -> None:
    """Warn about images that cannot be read; raise an InputError if they are too many."""
    if not unreadable:
        return
    if text := too_many(source.name, unreadable, len(source), max_unreadable):
        raise InputError(f"{text}. Repair or remove these files, or raise --max_unreadable")
    files = list_files(source.name, unreadable, 10)
    warnings.warn(f"{count_files(source.name, unreadable, len(source))}; left out: {files}", stacklevel=3)
