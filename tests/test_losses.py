"""InfoNCE against loops, closed forms and what must not matter."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from adco.losses.contrastive import info_nce, negative_cosine, nt_xent

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(1, 8)
WIDTHS = st.integers(2, 6)
TEMPERATURES = st.floats(0.02, 2)


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(n=COUNTS, more=st.integers(0, 5), k=COUNTS, d=WIDTHS, tau=TEMPERATURES, in_batch=st.booleans(), seed=SEEDS)
def test_equals_loops(n: int, more: int, k: int, d: int, tau: float, in_batch: bool, seed: int) -> None:
    """Keys are more than queries: those of other ranks stand before and after."""
    first = seed % (more + 1)
    rows = unit(n + (n + more) + k, d, seed=seed)
    queries, keys, negatives = torch.split(rows, [n, n + more, k])
    total = 0.0
    for i, query in enumerate(queries.numpy()):
        positive = query @ keys[first + i].numpy()
        others = [query @ key for j, key in enumerate(keys.numpy()) if j != first + i] if in_batch else []
        others += [query @ negative for negative in negatives.numpy()]
        total += math.log1p(sum(math.exp((other - positive) / tau) for other in others)) / n
    loss = info_nce(queries, keys, negatives, temperature=tau, first_positive=first, in_batch_negatives=in_batch)
    assert float(loss) == pytest.approx(total, rel=1e-12, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(n=COUNTS, k=COUNTS, d=WIDTHS, tau=TEMPERATURES, seed=SEEDS)
def test_collapsed_embeddings_only_count(n: int, k: int, d: int, tau: float, seed: int) -> None:
    point = unit(1, d, seed=seed)
    rows = point.expand(n, d), point.expand(n, d), point.expand(k, d)
    assert float(info_nce(*rows, temperature=tau)) == pytest.approx(math.log(n + k), abs=1e-12)
    alone = info_nce(*rows, temperature=tau, in_batch_negatives=False)
    assert float(alone) == pytest.approx(math.log(1 + k), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(n=COUNTS, k=COUNTS, d=WIDTHS, in_batch=st.booleans(), seed=SEEDS)
def test_order_of_negatives_and_rotation_change_nothing(n: int, k: int, d: int, in_batch: bool, seed: int) -> None:
    queries, keys, negatives = torch.split(unit(2 * n + k, d, seed=seed), [n, n, k])
    loss = info_nce(queries, keys, negatives, temperature=0.1, in_batch_negatives=in_batch)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    permuted = info_nce(queries, keys, negatives[order], temperature=0.1, in_batch_negatives=in_batch)
    torch.testing.assert_close(permuted, loss, rtol=1e-12, atol=1e-12)
    rotation = torch.linalg.qr(unit(d, d, seed=seed + 1))[0]
    rotated = (rows @ rotation for rows in (queries, keys, negatives))
    torch.testing.assert_close(
        info_nce(*rotated, temperature=0.1, in_batch_negatives=in_batch), loss, rtol=1e-11, atol=1e-11
    )


@settings(max_examples=40, deadline=None)
@given(k=COUNTS, d=WIDTHS, tau=st.floats(0.1, 2), nearer=st.floats(0.05, 0.9), seed=SEEDS)
def test_a_more_similar_negative_raises_the_loss(k: int, d: int, tau: float, nearer: float, seed: int) -> None:
    query, key, negatives = torch.split(unit(2 + k, d, seed=seed), [1, 1, k])
    harder = negatives.clone()
    harder[0] = F.normalize(negatives[0] + nearer * (query[0] - negatives[0]), dim=0)
    assume(float(query @ (harder - negatives)[0]) > 1e-3)  # it was neither the query nor its opposite
    after = info_nce(query, key, harder, temperature=tau)
    assert after > info_nce(query, key, negatives, temperature=tau)


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("first", range(5))
def test_first_positive_picks_the_rows_of_this_rank(first: int, in_batch: bool) -> None:
    queries, keys, negatives = torch.split(unit(3 + 7 + 2, 4, seed=first), [3, 7, 2])
    mine = torch.gather(keys, 0, torch.tensor([[first + i] * 4 for i in range(3)]))
    denominator = [keys] if in_batch else [mine]
    logits = queries @ torch.cat([*denominator, negatives]).T / 0.1
    if not in_batch:
        logits = torch.cat([(queries * mine).sum(1, keepdim=True) / 0.1, logits[:, 3:]], 1)
    expected = (logits.logsumexp(1) - (queries * mine).sum(1) / 0.1).mean()
    loss = info_nce(queries, keys, negatives, temperature=0.1, first_positive=first, in_batch_negatives=in_batch)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("in_batch", [True, False])
def test_gradients_of_all_three_roles(in_batch: bool) -> None:
    rows = [rows.clone().requires_grad_() for rows in torch.split(unit(3 + 5 + 4, 3, seed=0), [3, 5, 4])]

    def loss(*rows: Tensor) -> Tensor:
        return info_nce(*rows, temperature=0.3, first_positive=1, in_batch_negatives=in_batch)

    assert torch.autograd.gradcheck(loss, rows)


def test_cold_softmax_stays_finite() -> None:
    """At τ = 1e-3 the logits reach ±1000: their exponentials do not fit even a double."""
    queries = torch.eye(2, 3)
    loss = info_nce(queries, -queries, queries, temperature=1e-3)
    np.testing.assert_allclose(float(loss), 2000, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(n=COUNTS, more=st.integers(0, 5), d=WIDTHS, tau=TEMPERATURES, seed=SEEDS)
def test_nt_xent_equals_loops(n: int, more: int, d: int, tau: float, seed: int) -> None:
    """Other ranks' rows stand before and after this rank's."""
    start = seed % (more + 1)
    views = unit(2 * (n + more), d, seed=seed).chunk(2)
    rows = np.concatenate([view.numpy() for view in views])
    total = 0.0
    for i in [*range(start, start + n), *range(n + more + start, n + more + start + n)]:
        positive = rows[i] @ rows[(i + n + more) % len(rows)]
        others = [rows[i] @ rows[j] for j in range(len(rows)) if j != i]
        total += math.log(sum(math.exp((other - positive) / tau) for other in others)) / (2 * n)
    mine = [view[start : start + n] for view in views]
    found = nt_xent(*mine, *views, temperature=tau, first_positive=start)
    assert float(found) == pytest.approx(total, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_losses_and_gradients_are_lightlys(temperature: float) -> None:
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss

    torch.manual_seed(0)
    first, second = (torch.randn(16, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    one, other = F.normalize(first), F.normalize(second)
    pairs = [
        (nt_xent(one, other, one, other, temperature=temperature), NTXentLoss(temperature)(first, second)),
        (negative_cosine(first, second), NegativeCosineSimilarity()(first, second)),
    ]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        for x in (first, second):
            gradients = [torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in (mine, theirs)]
            torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_negative_cosine_equals_numpy_at_any_norm(scale: float) -> None:
    torch.manual_seed(0)
    p, z = (scale * torch.randn(7, 5, dtype=torch.float64) for _ in range(2))
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(p.numpy(), z.numpy(), strict=True)]
    assert float(negative_cosine(p, z)) == pytest.approx(-np.mean(cosines), abs=1e-6 if scale < 1 else 1e-12)
    assert negative_cosine(p.bfloat16(), z.bfloat16()).dtype == torch.float32
