"""The adversaries' side of the game: their gradient, their step, and what does not cross to the other player."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
from adco.adversaries import AdversarialLoss, Adversaries, adversarial_info_nce

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(1, 8)
WIDTHS = st.integers(2, 6)


def drawn(n: int, k: int, d: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit queries and keys, adversaries of any length."""
    rows = torch.randn(2 * n + k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    queries, keys, adversaries = torch.split(rows, [n, n, k])
    return F.normalize(queries), F.normalize(keys), adversaries.clone()


def losses(queries: Tensor, keys: Tensor, adversaries: Tensor, **changed: Any) -> AdversarialLoss:
    return adversarial_info_nce(
        queries, keys, adversaries, **{"temperature": 0.12, "adversary_temperature": 0.05, **changed}
    )


@settings(max_examples=40, deadline=None)
@given(n=COUNTS, k=COUNTS, d=WIDTHS, in_batch=st.booleans(), seed=SEEDS)
def test_both_losses_equal_loops(n: int, k: int, d: int, in_batch: bool, seed: int) -> None:
    rows = drawn(n, k, d, seed)
    found = losses(*rows, in_batch_negatives=in_batch)
    queries, keys, adversaries = (row.numpy() for row in rows)
    for loss, temperature in ((found.encoder, 0.12), (found.adversary, 0.05)):
        expected = reference.loss(queries, keys, adversaries, temperature, in_batch)
        assert float(loss) == pytest.approx(expected, rel=1e-12, abs=1e-13)


@settings(max_examples=30, deadline=None)
@given(n=COUNTS, k=COUNTS, d=WIDTHS, in_batch=st.booleans(), length=st.floats(0.1, 10), seed=SEEDS)
def test_collapse_is_a_logarithm(n: int, k: int, d: int, in_batch: bool, length: float, seed: int) -> None:
    point = drawn(1, 1, d, seed)[0]
    found = losses(point.expand(n, d), point.expand(n, d), length * point.expand(k, d), in_batch_negatives=in_batch)
    for loss in found:
        assert float(loss) == pytest.approx(math.log((n if in_batch else 1) + k), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(n=COUNTS, k=COUNTS, d=WIDTHS, in_batch=st.booleans(), seed=SEEDS)
def test_order_length_and_rotation_change_nothing(n: int, k: int, d: int, in_batch: bool, seed: int) -> None:
    queries, keys, adversaries = drawn(n, k, d, seed)
    expected = losses(queries, keys, adversaries, in_batch_negatives=in_batch)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(k, 1, generator=generator, dtype=torch.float64) * 10 + 0.1
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    for changed in (
        (queries, keys, adversaries[torch.randperm(k, generator=generator)]),
        (queries, keys, adversaries * lengths),
        (queries @ rotation, keys @ rotation, adversaries @ rotation),
    ):
        found = losses(*changed, in_batch_negatives=in_batch)
        torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-11, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(n=COUNTS, k=COUNTS, d=WIDTHS, in_batch=st.booleans(), seed=SEEDS)
def test_gradient_is_the_closed_form_and_orthogonal(n: int, k: int, d: int, in_batch: bool, seed: int) -> None:
    queries, keys, adversaries = drawn(n, k, d, seed)
    adversaries.requires_grad_()
    losses(queries, keys, adversaries, in_batch_negatives=in_batch).adversary.backward()  # type: ignore[no-untyped-call]
    assert adversaries.grad is not None
    arrays = queries.numpy(), keys.numpy(), adversaries.detach().numpy()
    expected = reference.adversary_gradient(*arrays, 0.05, in_batch)
    np.testing.assert_allclose(adversaries.grad.numpy(), expected, rtol=1e-9, atol=1e-12)
    lengths = adversaries.grad.norm(dim=1) * adversaries.detach().norm(dim=1)
    assert ((adversaries.grad * adversaries.detach()).sum(1).abs() <= 1e-12 * (1 + lengths)).all()


@settings(max_examples=40, deadline=None)
@given(n=COUNTS, k=COUNTS, d=WIDTHS, in_batch=st.booleans(), seed=SEEDS)
def test_a_small_step_does_not_lower_their_loss(n: int, k: int, d: int, in_batch: bool, seed: int) -> None:
    queries, keys, start = drawn(n, k, d, seed)
    adversaries = Adversaries(k, d).double()
    adversaries.fill(F.normalize(start))
    optimizer = torch.optim.SGD(adversaries.parameters(), lr=1e-4, maximize=True)
    before = losses(queries, keys, adversaries.weight, in_batch_negatives=in_batch).adversary
    before.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    after = losses(queries, keys, adversaries.weight, in_batch_negatives=in_batch).adversary
    assert after >= before - 1e-13


def test_fifty_steps_equal_the_published_update() -> None:
    """Gradient by hand, momentum 0.9, weight decay 1e-4, rate 3: ascent, while decay still shrinks."""
    _, _, start = drawn(1, 24, 8, seed=0)
    adversaries = Adversaries(24, 8).double()
    adversaries.fill(start)
    optimizer = torch.optim.SGD(adversaries.parameters(), lr=3.0, momentum=0.9, weight_decay=1e-4, maximize=True)
    weight, velocity = start.numpy().copy(), np.zeros((24, 8))
    for step in range(50):
        queries, keys, _ = drawn(6, 1, 8, seed=step + 1)
        optimizer.zero_grad()
        losses(queries, keys, adversaries.weight, adversary_temperature=0.02).adversary.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        ascent = reference.adversary_gradient(queries.numpy(), keys.numpy(), weight, 0.02, in_batch=True)
        velocity = 0.9 * velocity + ascent - 1e-4 * weight
        weight = weight + 3.0 * velocity
    difference = np.linalg.norm(adversaries.weight.detach().numpy() - weight) / np.linalg.norm(weight)
    assert difference < 1e-12
    assert np.linalg.norm(weight - start.numpy()) > 1  # they did move


def test_no_gradient_crosses() -> None:
    rows = [row.requires_grad_() for row in drawn(4, 5, 3, seed=0)]
    found = losses(*rows)
    to_queries, to_keys, to_adversaries = torch.autograd.grad(found.encoder, rows, retain_graph=True, allow_unused=True)
    assert to_queries.abs().sum() > 0
    assert to_keys.abs().sum() > 0
    assert to_adversaries is None
    to_queries, to_keys, to_adversaries = torch.autograd.grad(found.adversary, rows, allow_unused=True)
    assert to_queries is None
    assert to_keys is None
    assert to_adversaries.abs().sum() > 0


def test_fill_stops_at_the_last_row() -> None:
    adversaries = Adversaries(5, 2)
    first = adversaries.weight.detach().clone()
    adversaries.fill(torch.ones(3, 2), start=3)
    assert torch.equal(adversaries.weight[:3], first[:3])
    assert torch.equal(adversaries.weight[3:], torch.ones(2, 2))
    assert adversaries.weight.requires_grad


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"queries": torch.zeros(3, 5)}, "same width, got 5, 4 and 4"),
        ({"keys": torch.zeros(3, 5)}, "same width, got 4, 5 and 4"),
        ({"adversaries": torch.zeros(2, 5)}, "same width, got 4, 4 and 5"),
        ({"first_positive": 1}, "first_positive 1 is out of range for 3 queries and 3 keys"),
        ({"first_positive": -1}, "first_positive -1"),
        ({"keys": torch.zeros(2, 4)}, "out of range for 3 queries and 2 keys"),
        ({"temperature": 0.0}, "temperatures must be positive, got 0.0"),
        ({"temperature": -0.1}, "temperatures must be positive"),
        ({"temperature": math.nan}, "temperatures must be positive"),
        ({"adversary_temperature": 0.0}, "temperatures must be positive"),
        ({"adversary_temperature": math.nan}, "temperatures must be positive"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], message: str) -> None:
    arguments = {"queries": torch.zeros(3, 4), "keys": torch.zeros(3, 4), "adversaries": torch.zeros(2, 4), **changed}
    with pytest.raises(ValueError, match=message):
        losses(**arguments)


@pytest.mark.parametrize(("k", "d"), [(0, 4), (4, 0), (-1, 4)])
def test_an_empty_bank_is_refused(k: int, d: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {k} and {d}"):
        Adversaries(k, d)
