"""The one pass against the plain formula and autograd, for any size of block."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adco.adversaries import adversarial_info_nce
from adco.losses.blockwise import TwoPlayerLoss
from adco.losses.contrastive import info_nce
from adco.processor import multiplies_bf16


def drawn(n: int, m: int, k: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Unit queries and keys, adversaries of any length."""
    rows = torch.randn(n + m + k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    queries, keys, adversaries = torch.split(rows, [n, m, k])
    return [part.to(dtype).requires_grad_() for part in (F.normalize(queries), F.normalize(keys), adversaries.clone())]


def plain(inputs: Iterable[Tensor], tau: float, tau_adv: float, **options: Any) -> list[Tensor]:
    """Both losses and the three gradients as the formula has them, by autograd."""
    queries, keys, adversaries = inputs
    unit = F.normalize(adversaries)
    encoder = info_nce(queries, keys, unit.detach(), temperature=tau, **options)
    adversary = info_nce(queries.detach(), keys.detach(), unit, temperature=tau_adv, **options)
    return [encoder, adversary, *torch.autograd.grad(encoder + 3 * adversary, (queries, keys, adversaries))]


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 9),
    more=st.integers(0, 5),
    k=st.integers(1, 20),
    d=st.integers(2, 6),
    rows=st.integers(1, 10),
    columns=st.integers(1, 22),
    tau=st.floats(0.05, 2),
    tau_adv=st.floats(0.02, 2),
    in_batch=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_plain_formula(
    n: int,
    more: int,
    k: int,
    d: int,
    rows: int,
    columns: int,
    tau: float,
    tau_adv: float,
    in_batch: bool,
    seed: int,
) -> None:
    first = seed % (more + 1)
    inputs = drawn(n, n + more, k, d, seed)
    encoder, adversary = TwoPlayerLoss.apply(*inputs, tau, tau_adv, first, in_batch, None, rows, columns)
    found = [encoder, adversary, *torch.autograd.grad(encoder + 3 * adversary, inputs)]
    expected = plain(inputs, tau, tau_adv, first_positive=first, in_batch_negatives=in_batch)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("in_batch", [True, False])
def test_float32_is_within_1e_5(in_batch: bool) -> None:
    """At a real size, the gradients relative to their largest value."""
    inputs = drawn(256, 256, 8192, 128, seed=0, dtype=torch.float32)
    loss = adversarial_info_nce(*inputs, temperature=0.12, adversary_temperature=0.02, in_batch_negatives=in_batch)
    found = [*loss, *torch.autograd.grad(loss.encoder + 3 * loss.adversary, inputs)]
    exact = plain((tensor.double() for tensor in inputs), 0.12, 0.02, in_batch_negatives=in_batch)
    for mine, its in zip(found, exact, strict=True):
        assert (mine - its).abs().max() < 1e-5 * its.abs().max()


@pytest.mark.parametrize("tau_adv", [0.012, 0.011, 0.002])
def test_a_low_temperature_neither_overflows_nor_vanishes(tau_adv: float) -> None:
    """Where exp((s − 1)/τ) is 0 in float32 for every cosine of a row."""
    inputs = drawn(8, 8, 40, 16, seed=1, dtype=torch.float32)
    loss = adversarial_info_nce(*inputs, temperature=tau_adv, adversary_temperature=tau_adv)
    found = [*loss, *torch.autograd.grad(loss.encoder + 3 * loss.adversary, inputs)]
    expected = plain((tensor.double() for tensor in inputs), tau_adv, tau_adv)
    for mine, its in zip(found, expected, strict=True):
        assert (mine - its).abs().max() < 1e-3 * its.abs().max()


def test_rows_without_a_key_or_an_adversary_nearby_keep_their_loss() -> None:
    """All cosines −1 but for one: the farthest that two terms of a softmax can be apart."""
    point = F.normalize(torch.ones(1, 8))
    for keys, adversaries in ((-point, point), (point, -point), (-point, -point)):
        loss = adversarial_info_nce(point, keys, adversaries, temperature=0.12, adversary_temperature=0.012)
        expected = [float(F.softplus((adversaries - keys).sum() / 8**0.5 / tau).double()) for tau in (0.12, 0.012)]
        assert [float(part) for part in loss] == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_autocast_to_float16_changes_nothing() -> None:
    inputs = drawn(8, 8, 40, 16, seed=2, dtype=torch.float32)
    expected = adversarial_info_nce(*inputs, temperature=0.12, adversary_temperature=0.02)
    with torch.autocast("cpu", torch.float16):
        found = adversarial_info_nce(*inputs, temperature=0.12, adversary_temperature=0.02)
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_bf16_queries_get_bf16_gradients_of_float32_sums() -> None:
    inputs = drawn(8, 8, 40, 16, seed=2, dtype=torch.bfloat16)
    loss = adversarial_info_nce(*inputs, temperature=0.12, adversary_temperature=0.02)
    assert loss.encoder.dtype == torch.float32
    found = torch.autograd.grad(loss.encoder + loss.adversary, inputs)
    assert all(gradient.dtype == torch.bfloat16 for gradient in found)


def test_each_loss_gives_its_gradients_once() -> None:
    queries, keys, adversaries = drawn(4, 4, 6, 3, seed=3)
    loss = adversarial_info_nce(queries, keys, adversaries, temperature=0.12, adversary_temperature=0.02)
    loss.encoder.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert adversaries.grad is None
    loss.adversary.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert adversaries.grad is not None
    for again in loss:
        with pytest.raises(RuntimeError, match="one backward pass only"):
            again.backward(retain_graph=True)


def test_a_gradient_of_a_gradient_is_refused() -> None:
    queries, keys, adversaries = drawn(4, 4, 6, 3, seed=3)
    loss = adversarial_info_nce(queries, keys, adversaries, temperature=0.12, adversary_temperature=0.02)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss.encoder, queries, create_graph=True)


def test_without_gradients_the_losses_are_the_same() -> None:
    inputs = drawn(4, 4, 6, 3, seed=3)
    with torch.no_grad():
        found = adversarial_info_nce(*inputs, temperature=0.12, adversary_temperature=0.02)
    expected = adversarial_info_nce(*inputs, temperature=0.12, adversary_temperature=0.02)
    assert not found.encoder.requires_grad
    assert torch.equal(torch.stack(found), torch.stack(expected).detach())


def test_nan_is_not_hidden() -> None:
    queries, keys, adversaries = (tensor.detach() for tensor in drawn(4, 4, 6, 3, seed=3))
    queries[2, 1] = torch.nan
    loss = adversarial_info_nce(queries, keys, adversaries, temperature=0.12, adversary_temperature=0.02)
    assert all(part.isnan() for part in loss)


@pytest.mark.skipif(not multiplies_bf16(), reason="the processor does not multiply bf16")
@pytest.mark.parametrize("tau_adv", [0.02, 0.03, 0.2])  # 1 / 0.03 is no bf16
def test_products_of_bf16_change_gradients_by_a_few_hundredths(tau_adv: float) -> None:
    """Under autocast alone, and nothing is left behind; float32 runs stay exact."""
    width = 128
    queries, keys, adversaries = drawn(64, 64, 3000, width, 5, torch.float32)
    keys = F.normalize((queries + 2 * keys).detach()).requires_grad_()  # with a share of the softmax
    given = [queries, keys, adversaries]
    truth = plain([part.detach().double().requires_grad_() for part in given], 0.12, tau_adv)

    def worst() -> float:
        pair = adversarial_info_nce(*given, temperature=0.12, adversary_temperature=tau_adv)
        gradients = torch.autograd.grad(pair.encoder + 3 * pair.adversary, given)
        pairs = zip([*pair, *gradients], truth, strict=True)
        return max(float(((ours - right).norm() / right.norm()).detach()) for ours, right in pairs)

    with torch.autocast("cpu", torch.bfloat16):
        rough = worst()
    assert 1e-4 < rough < 0.03
    assert worst() < 1e-4
    assert torch.get_float32_matmul_precision() == "highest"
