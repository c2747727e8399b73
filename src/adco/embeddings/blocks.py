"""Embedding images block by block: what is computed at once, and lost at most if the process is stopped.

Shapes: n images, b of a block, F feature width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from adco.data.sources.protocol import Source, Unreadable
from adco.errors import InputError
from adco.evaluation.extract import embed_batches
from adco.evaluation.subject import Subject

BLOCK = 1024  # images
BATCH = 256  # images that a thread decodes and embeds before the next; divides BLOCK


@dataclass(frozen=True, eq=False)
class Block:
    """Embeddings of the images number · BLOCK and following of a source.

    Args:
        number: of the block.
        indices: [b], the images in the source that could be read.
        embeddings: [b, F] float32; F is 0 if no image of the block could be read.
        unreadable: the others, by their index.
    """

    number: int
    indices: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    unreadable: dict[int, Unreadable]


def count_blocks(images: int) -> int:
    """Return the number of blocks of a source."""
    return -(-images // BLOCK)


def embed_blocks(
    subject: Subject, source: Source, numbers: Sequence[int], device: torch.device | str, progress: bool = True
) -> Iterator[Block]:
    """Yield the blocks with these numbers, in this order.

    Threads work on several batches at once, also of the block after the one that is yielded next.

    Raises:
        InputError: an embedding is not finite.
    """
    blocks = [np.arange(number * BLOCK, min((number + 1) * BLOCK, len(source))) for number in numbers]
    batches = [np.split(block, range(BATCH, len(block), BATCH)) for block in blocks]
    damaged: dict[int, Unreadable] = {}
    embedded = embed_batches(
        subject.backbone.to(memory_format=torch.channels_last),  # as the images
        source,
        [batch for of_block in batches for batch in of_block],
        image_size=subject.image_size,
        mean=subject.info.mean,
        std=subject.info.std,
        damaged=damaged,
        device=device,
        progress=progress,
    )
    for number, block, of_block in zip(numbers, blocks, batches, strict=True):
        found = [(indices, values.numpy()) for indices, values in islice(embedded, len(of_block)) if len(indices)]
        unreadable = {index: damaged[index] for index in block.tolist() if index in damaged}
        yield _checked(Block(number, *_joined(found), unreadable), source)


def _joined(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if not parts:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    indices, embeddings = zip(*parts, strict=True)
    return np.concatenate(indices), np.concatenate(embeddings)


def _checked(block: Block, source: Source) -> Block:
    broken = int((~np.isfinite(block.embeddings).all(axis=1)).sum())
    if broken:
        raise InputError(
            f"embeddings of {broken} of {len(block.indices)} images of {source.name} are NaN or infinite: the "
            "backbone has diverged, or the normalisation mean and std are wrong"
        )
    return block
