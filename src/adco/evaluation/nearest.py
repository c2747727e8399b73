"""The nearest neighbours of vectors, exact, and computed block by block.

Shapes: m queries, n vectors in the bank, F width, k neighbours.
"""

from collections.abc import Iterable

import torch

CHUNK = 512  # queries that are compared at once
BANK_CHUNK = 65_536  # vectors they are compared with at once: 134 MB of similarities


def nearest(
    queries: torch.Tensor,
    bank: torch.Tensor,
    k: int,
    itself: torch.Tensor | None = None,
    *,
    chunk: int = CHUNK,
    bank_chunk: int = BANK_CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosine similarities and the bank rows of each query's k nearest neighbours, nearest first.

    Args:
        queries: [m, F], of unit norm.
        bank: [n, F], of unit norm; the computation runs on its device.
        k: at most n, or n − 1 with `itself`.
        itself: [m], the row of the bank that is not a neighbour of the query, because it is the same image; −1 for
            none.
        chunk, bank_chunk: number of queries and of vectors compared at once. They limit the memory to
            chunk × bank_chunk similarities and do not change the result.

    Returns:
        Similarities [m, k] and rows [m, k] int64, both on the bank's device.
    """
    return nearest_in_blocks(queries, torch.split(bank, bank_chunk), k, itself, chunk=chunk)


def nearest_in_blocks(
    queries: torch.Tensor,
    blocks: Iterable[torch.Tensor],
    k: int,
    itself: torch.Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `nearest` does, for a bank whose blocks come one after the other. Each is needed once.

    Args:
        queries, k, itself, chunk: as for `nearest`.
        blocks: of the bank, in order, on the device where to compute.
    """
    parts = torch.split(queries, chunk)
    left_out = [None] * len(parts) if itself is None else torch.split(itself, chunk)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    start = 0
    for block in blocks:
        if not start:
            none = block.new_empty
            found = [(none(len(part), 0), none(len(part), 0, dtype=torch.int64)) for part in parts]
        for place, (part, same) in enumerate(zip(parts, left_out, strict=True)):
            found[place] = _better(*found[place], part.to(block.device), block, start, k, same)
        start += len(block)
    similarities, rows = zip(*found, strict=True)
    return torch.cat(similarities), torch.cat(rows)


def _better(
    best: torch.Tensor,
    rows: torch.Tensor,
    queries: torch.Tensor,
    block: torch.Tensor,
    start: int,
    k: int,
    left_out: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge the best neighbours so far with those of a block, whose first row is `start`."""
    similarities = queries @ block.T  # [queries, block]
    if left_out is not None:
        left_out = left_out.to(block.device)
        here = (left_out >= start) & (left_out < start + len(block))
        similarities[here, left_out[here] - start] = -torch.inf
    found, block_rows = similarities.topk(min(k, similarities.shape[1]))
    best, rows = torch.cat([best, found], dim=1), torch.cat([rows, block_rows + start], dim=1)
    best, order = best.topk(min(k, best.shape[1]))
    return best, rows.gather(1, order)
