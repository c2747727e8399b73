"""kNN against brute force in NumPy float64 and against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]
from torch.nn import functional as F

from adco.evaluation.features import Features
from adco.evaluation.knn import KNN, knn_scores


def made(n: int, m: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return torch.randn(n, 6, generator=generator), labels, torch.randn(m, 6, generator=generator)


def brute_force(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, classes: int, k: int, temperature: float
) -> NDArray[np.float64]:
    bank, queries = train.double().numpy(), test.double().numpy()
    scores = np.zeros((len(queries), classes))
    for row, query in enumerate(queries):
        similarities = [query @ key / (np.linalg.norm(query) * np.linalg.norm(key)) for key in bank]
        for neighbour in np.argsort(similarities)[::-1][:k]:
            scores[row, labels[neighbour]] += np.exp(similarities[neighbour] / temperature)
    shares: NDArray[np.float64] = scores / scores.sum(axis=1, keepdims=True)
    return shares


def test_the_evaluation_uses_its_settings() -> None:
    train, labels, test = made(40, 9, 3)
    scores, used = KNN(k=7, temperature=0.5).classify(Features(train, labels), test, 3, "cpu")
    np.testing.assert_allclose(scores.numpy(), brute_force(train, labels, test, 3, 7, 0.5), atol=1e-6)
    assert used == {"k": 7, "temperature": 0.5}


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 9),
    k=st.integers(1, 50),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
    chunk=st.integers(1, 10),
    bank_chunk=st.integers(1, 50),
)
def test_equals_brute_force_whatever_the_chunks(
    n: int, m: int, k: int, temperature: float, chunk: int, bank_chunk: int
) -> None:
    train, labels, test = made(n, m, 4, seed=n)
    scores = knn_scores(train, labels, test, 4, k, temperature, chunk=chunk, bank_chunk=bank_chunk)
    np.testing.assert_allclose(scores, brute_force(train, labels, test, 4, k, temperature), atol=2e-5)


@pytest.mark.parametrize("k", [1, 5, 50])
def test_equals_scikit_learn(k: int) -> None:
    train, labels, test = made(200, 50, 5)
    oracle = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.1)
    ).fit(train.numpy(), labels.numpy())
    np.testing.assert_allclose(
        knn_scores(train, labels, test, 5, k, 0.1), oracle.predict_proba(test.numpy()), atol=1e-5
    )


def test_a_bank_in_a_file_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels, test = made(300, 9, 5)
    np.save(tmp_path / "bank.npy", train.numpy())
    expected = knn_scores(train, labels, test, 5, 20)
    normalize, sizes = F.normalize, list[int]()

    def noted(vectors: torch.Tensor, dim: int) -> torch.Tensor:
        sizes.append(len(vectors))
        return normalize(vectors, dim=dim)

    monkeypatch.setattr(F, "normalize", noted)
    mapped = torch.from_numpy(np.load(tmp_path / "bank.npy", mmap_mode="r+"))
    found = knn_scores(mapped, labels, test, 5, 20, chunk=4, bank_chunk=64)
    torch.testing.assert_close(found, expected)
    assert sorted(sizes) == [9, 300 % 64, 64, 64, 64, 64]


def test_more_neighbours_than_images_means_all_of_them() -> None:
    train, labels, test = made(7, 3, 2)
    assert torch.equal(knn_scores(train, labels, test, 2, 200, 0.1), knn_scores(train, labels, test, 2, 7, 0.1))


def test_length_of_a_feature_does_not_matter() -> None:
    train, labels, test = made(30, 4, 3)
    scaled = train * torch.logspace(-3, 3, 30)[:, None]
    torch.testing.assert_close(knn_scores(scaled, labels, 50 * test, 3), knn_scores(train, labels, test, 3))


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_extreme_temperatures_neither_overflow_nor_vanish(temperature: float) -> None:
    train, labels, test = made(30, 4, 3)
    scores = knn_scores(train, labels, test, 3, 10, temperature)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(4))
    if temperature < 1:  # the nearest alone decides
        assert torch.equal(scores.argmax(dim=1), knn_scores(train, labels, test, 3, 1).argmax(dim=1))
    else:  # all neighbours count alike
        assert torch.allclose(10 * scores, (10 * scores).round(), atol=1e-3)


def test_a_collapsed_backbone_is_at_the_class_shares() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    scores = knn_scores(torch.zeros(4, 3), labels, torch.zeros(2, 3), 3)
    torch.testing.assert_close(scores, torch.tensor([[0.75, 0.25, 0.0]]).expand(2, 3))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("k", 0), ("temperature", 0.0), ("temperature", -0.1), ("temperature", float("nan")), ("chunk", 0)],
)
def test_impossible_settings_are_named(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{setting} must be"):
        knn_scores(*made(5, 2, 2), 2, **{setting: value})  # type: ignore[arg-type]
