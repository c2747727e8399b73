"""Nearest neighbours against loops in NumPy float64 and against scikit-learn."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]
from torch.nn import functional as F

from adco.evaluation.nearest import nearest


def directions(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 40), m=st.integers(1, 20), chunk=st.integers(1, 9), bank_chunk=st.integers(1, 50), data=st.data()
)
def test_neighbours_are_those_of_loops(n: int, m: int, chunk: int, bank_chunk: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n - 1))
    itself = data.draw(st.lists(st.integers(-1, n - 1), min_size=m, max_size=m))
    queries, bank = directions(m, 0), directions(n, 1)
    similarities, rows = nearest(queries, bank, k, torch.tensor(itself), chunk=chunk, bank_chunk=bank_chunk)
    exact = queries.double().numpy() @ bank.double().numpy().T
    for query in range(m):
        order = [row for row in np.argsort(-exact[query]).tolist() if row != itself[query]][:k]
        assert rows[query].tolist() == order
        np.testing.assert_allclose(similarities[query].numpy(), exact[query][order], atol=1e-6)


def test_neighbours_are_those_of_scikit_learn() -> None:
    vectors = F.normalize(directions(300, 2).double(), dim=1)
    similarities, rows = nearest(vectors, vectors, 7, torch.arange(300), chunk=64, bank_chunk=100)
    distances, oracle = NearestNeighbors(n_neighbors=7, metric="cosine").fit(vectors.numpy()).kneighbors()
    assert rows.tolist() == oracle.tolist()
    np.testing.assert_allclose(1 - similarities.numpy(), distances, atol=1e-12)
