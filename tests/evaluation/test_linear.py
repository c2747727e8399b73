"""The linear probe against scikit-learn's optimum, and the honesty of its choice of L2."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from adco.evaluation.inputs import Inputs
from adco.evaluation.linear import L2_CANDIDATES, SEARCH_PER_CLASS, fit_linear_probe, fit_logistic, stratified_split


def made(n: int, width: int = 5, classes: int = 3, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian classes with features of very different scale and offset."""
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, width, generator=generator)
    features = centres[labels] + noise * torch.randn(n, width, generator=generator)
    return features * torch.logspace(-3, 2, width) + torch.linspace(-50, 50, width), labels


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize(("dtype", "tolerance", "atol"), [(torch.float64, 1e-9, 1e-4), (torch.float32, 1e-5, 2e-2)])
def test_fit_has_the_optimum_of_scikit_learn(l2: float, dtype: torch.dtype, tolerance: float, atol: float) -> None:
    features, labels = made(200)
    inputs = ((features - features.mean(dim=0)) / features.std(dim=0)).to(dtype)
    oracle = LogisticRegression(C=1 / (len(labels) * l2), tol=1e-10, max_iter=10_000).fit(inputs.double(), labels)
    start = torch.zeros(3, 5, dtype=dtype), torch.zeros(3, dtype=dtype)
    weight, bias = fit_logistic(inputs, labels, *start, l2, tolerance=tolerance)
    np.testing.assert_allclose(weight, oracle.coef_, atol=atol)
    np.testing.assert_allclose(bias - bias.mean(), oracle.intercept_ - oracle.intercept_.mean(), atol=atol)


def test_probe_equals_scikit_learn_on_standardised_features() -> None:
    features, labels = made(300)
    probe = fit_linear_probe(features, labels, 3)
    inputs = (features.double() - features.double().mean(dim=0)) / features.double().std(dim=0, correction=0)
    oracle = LogisticRegression(C=1 / (300 * probe.l2), tol=1e-10, max_iter=10_000).fit(inputs, labels)
    found = probe.scores(features).softmax(dim=1)
    np.testing.assert_allclose(found, oracle.predict_proba(inputs), atol=5e-3)


def test_the_best_on_held_out_training_images_is_chosen_and_the_stronger_of_equals() -> None:
    probe = fit_linear_probe(*made(300, noise=2.0), 3)
    assert tuple(probe.validation) == L2_CANDIDATES
    best = max(probe.validation.values())
    assert probe.l2 == max(l2 for l2, top1 in probe.validation.items() if top1 == best)
    assert all(0 <= top1 <= 100 for top1 in probe.validation.values())


def test_strong_regularisation_wins_where_there_is_only_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, labels = made(400, width=1, classes=2, noise=0.7)
    noise = torch.randn(400, 150, generator=generator)
    features = torch.cat([signal / signal.std(), noise], dim=1)
    probe = fit_linear_probe(features[:200], labels[:200], 2)
    weakest = fit_linear_probe(features[:200], labels[:200], 2, candidates=L2_CANDIDATES[-1:])
    hits, hits_weakest = (
        (p.scores(features[200:]).argmax(dim=1) == labels[200:]).double().mean() for p in (probe, weakest)
    )
    assert probe.l2 >= 1e-1
    assert hits > hits_weakest


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_split_holds_out_a_tenth_of_each_class_and_never_its_only_image(listed: list[int]) -> None:
    labels = torch.tensor(listed)
    training, held_out = stratified_split(labels, seed=0)
    assert sorted(torch.cat([training, held_out]).tolist()) == list(range(len(listed)))
    for label in set(listed):
        count, held = listed.count(label), (labels[held_out] == label).sum().item()
        assert held == (0 if count == 1 else max(1, round(0.1 * count)))
    again = stratified_split(labels, seed=0)
    assert torch.equal(training, again[0])
    assert torch.equal(held_out, again[1])


def test_split_searches_among_a_bounded_number_of_images() -> None:
    training, held_out = stratified_split(torch.zeros(3 * SEARCH_PER_CLASS, dtype=torch.int64), seed=0)
    assert len(training) + len(held_out) == SEARCH_PER_CLASS


def test_one_image_per_class_is_enough() -> None:
    features, labels = torch.eye(4), torch.arange(4)
    probe = fit_linear_probe(features, labels, 4)
    assert probe.validation == {}
    assert torch.equal(probe.scores(features).argmax(dim=1), labels)


def test_few_images_and_an_absent_class() -> None:
    features, labels = torch.eye(4).repeat_interleave(2, dim=0)[:7], torch.tensor([0, 0, 1, 1, 2, 2, 3])
    scores = fit_linear_probe(features, labels, 6).scores(features)  # classes 4 and 5 have no image, 3 has one
    assert torch.equal(scores.argmax(dim=1), labels)


@pytest.mark.parametrize("constant", [0.3, 1e6])
def test_constant_features_say_nothing_and_break_nothing(constant: float) -> None:
    features, labels = made(200)
    flat = torch.full((200, 2), constant)
    rounding = flat * (1 + 1e-7 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)))
    probe, alone = (
        fit_linear_probe(inputs, labels, 3, candidates=(1e-2,))
        for inputs in (torch.cat([features, rounding], dim=1), flat)
    )
    assert probe.scores(torch.cat([features, flat], dim=1)).isfinite().all()
    torch.testing.assert_close(probe.std[5:], torch.ones(2))
    shares = (labels.bincount() / 200).expand(200, 3)
    torch.testing.assert_close(alone.scores(flat).softmax(dim=1), shares, atol=1e-3, rtol=0)


def test_features_taken_under_no_grad_and_labels_are_left_alone() -> None:
    features, labels = made(60)
    before = features.clone()
    with torch.no_grad():
        probe = fit_linear_probe(features, labels, 3, candidates=(1e-2,))
    assert torch.equal(features, before)
    assert not probe.weight.requires_grad
    assert math.isfinite(probe.weight.sum())


@pytest.mark.parametrize(("images", "width"), [(300, 6), (5, 6)])
def test_blocks_differ_from_the_whole_by_rounding(images: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64. Five images are fewer than features, whose axes are found from all at once."""
    features, labels = made(images)
    features = torch.cat([features.double() + 3, torch.zeros(images, 1, dtype=torch.float64)], dim=1)[:, -width:]
    whole = fit_linear_probe(features, labels, 3)
    standardised, sizes = Inputs._standardised, list[int]()

    def noted(self: Inputs, block: torch.Tensor) -> torch.Tensor:
        sizes.append(len(block))
        return standardised(self, block)

    monkeypatch.setattr(Inputs, "_standardised", noted)
    blocks = fit_linear_probe(features, labels, 3, at_once=64 * width)
    assert max(sizes) == min(images, 64)
    assert blocks.l2 == whole.l2
    assert blocks.validation == whole.validation
    torch.testing.assert_close(blocks.std, whole.std)
    torch.testing.assert_close(blocks.scores(features), whole.scores(features), rtol=0, atol=1e-5)


@pytest.mark.parametrize("candidates", [(), (1e-3, 1e-2), (1.0, 1.0), (1.0, 0.0), (1.0, -1.0)])
def test_impossible_candidates_are_refused(candidates: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="candidates must be positive and in descending order"):
        fit_linear_probe(*made(20), 3, candidates=candidates)
