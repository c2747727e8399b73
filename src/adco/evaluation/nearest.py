"""The nearest neighbours of vectors, exact, and computed block by block.

Shapes: m queries, n vectors in the bank, F width, k neighbours.
"""

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
    similarities = torch.empty(len(queries), k, dtype=bank.dtype, device=bank.device)
    rows = torch.empty(len(queries), k, dtype=torch.int64, device=bank.device)
    for start in range(0, len(queries), chunk):
        part = slice(start, start + chunk)
        left_out = None if itself is None else itself[part].to(bank.device)
        similarities[part], rows[part] = _nearest(queries[part].to(bank.device), bank, k, left_out, bank_chunk)
    return similarities, rows


def _nearest(
    queries: torch.Tensor, bank: torch.Tensor, k: int, left_out: torch.Tensor | None, bank_chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search the bank in chunks; the best neighbours so far are merged with those of each chunk."""
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty_like(best, dtype=torch.int64)
    for start in range(0, len(bank), bank_chunk):
        similarities = queries @ bank[start : start + bank_chunk].T  # [queries, bank_chunk]
        if left_out is not None:
            here = (left_out >= start) & (left_out < start + bank_chunk)
            similarities[here, left_out[here] - start] = -torch.inf
        found, chunk_rows = similarities.topk(min(k, similarities.shape[1]))
        best, rows = torch.cat([best, found], dim=1), torch.cat([rows, chunk_rows + start], dim=1)
        best, order = best.topk(min(k, best.shape[1]))
        rows = rows.gather(1, order)
    return best, rows
