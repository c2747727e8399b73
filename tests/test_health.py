import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from adco.health.numbers import adversary_hardness, effective_rank, embedding_health

Array = NDArray[np.float64]
N, D, K = 12, 6, 9
seeds = st.integers(0, 2**31 - 1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(x: Tensor) -> list[Array]:
    """Unit rows in float64."""
    return [row / math.sqrt(sum(v * v for v in row)) for row in x.double().numpy()]


# ------------------------------------------------------------------------------------------------- embeddings


def health_by_loops(queries: Tensor, keys: Tensor) -> dict[str, float]:
    q, k = rows(queries), rows(keys)
    n, d = queries.shape
    kernel = [math.exp(-2 * sum((q[i] - q[j]) ** 2)) for i in range(n) for j in range(i)]
    deviation = [math.sqrt(sum((row[c] - sum(r[c] for r in q) / n) ** 2 for row in q) / n) for c in range(d)]
    return {
        "positive_cosine": sum(float(a @ b) for a, b in zip(q, k, strict=True)) / n,
        "alignment": sum(sum((a - b) ** 2) for a, b in zip(q, k, strict=True)) / n,
        "uniformity": math.log(sum(kernel) / len(kernel)),
        "spread": sum(deviation) / d * math.sqrt(d),
        "effective_rank": rank_by_svd(np.array(q)),
        "max_rank": min(n, d),
        "instance_top1": 100 * sum(max(range(n), key=lambda j: float(q[i] @ k[j])) == i for i in range(n)) / n,
        "instance_chance": 100 / n,
    }


def rank_by_svd(x: Array) -> float:
    """RankMe through an SVD, independent of the Gram matrix."""
    singular = [float(s) for s in np.linalg.svd(x, compute_uv=False)]
    p = [s / sum(singular) + 1e-7 for s in singular]
    return math.exp(-sum(v * math.log(v) for v in p))


def test_health_equals_loops() -> None:
    queries, keys = random(N, D), random(N, D, seed=1)
    assert embedding_health(queries, keys) == pytest.approx(health_by_loops(queries, keys), rel=1e-5)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20), (7, 7)])
def test_rank_equals_an_svd(shape: tuple[int, int]) -> None:
    x = random(*shape)
    assert effective_rank(x) == pytest.approx(rank_by_svd(x.double().numpy()), rel=1e-5)


def test_one_point_is_collapse() -> None:
    point = random(1, D).expand(N, D)
    health = embedding_health(point, point)
    assert health["spread"] == pytest.approx(0, abs=1e-5)
    assert health["uniformity"] == pytest.approx(0, abs=1e-5)
    assert health["alignment"] == pytest.approx(0, abs=1e-5)
    assert health["positive_cosine"] == pytest.approx(1)
    assert health["effective_rank"] == pytest.approx(1, abs=1e-2)


def test_orthonormal_embeddings_have_full_rank() -> None:
    health = embedding_health(torch.eye(D), -torch.eye(D))
    assert health == pytest.approx(
        {
            "positive_cosine": -1,
            "alignment": 4,
            "uniformity": -4,  # every pair at d² = 2
            "spread": math.sqrt(1 - 1 / D),
            "effective_rank": D,
            "max_rank": D,
            "instance_top1": 0,
            "instance_chance": 100 / D,
        },
        rel=1e-4,
    )


def test_a_filled_sphere_has_spread_one() -> None:
    x = random(2048, 64)
    health = embedding_health(x, x)
    assert health["spread"] == pytest.approx(1, abs=0.01)
    assert health["effective_rank"] > 62
    assert health["uniformity"] == pytest.approx(-4, abs=0.2)  # nearly orthogonal pairs


def test_equal_rank_of_scaled_features() -> None:
    x = random(N, D)
    assert effective_rank(1000 * x) == pytest.approx(effective_rank(x), rel=1e-4)
    assert effective_rank(torch.zeros(N, D)) == pytest.approx(1, abs=1e-3)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_joint_rotation_changes_nothing(seed: int) -> None:
    queries, keys, adversaries = random(N, D, seed=seed), random(N, D, seed=seed + 1), random(K, D, seed=seed + 2)
    rotation, _ = torch.linalg.qr(random(D, D, seed=seed + 3))
    before, after = embedding_health(queries, keys), embedding_health(queries @ rotation, keys @ rotation)
    for health in (before, after):
        assert health.pop("spread") <= 1 + 1e-6  # depends on the axes, but never passes 1
    assert after == pytest.approx(before, rel=1e-3, abs=1e-4)
    turned = hardness(queries @ rotation, keys @ rotation, adversaries @ rotation)
    assert turned == pytest.approx(hardness(queries, keys, adversaries), rel=1e-3, abs=1e-4)


@settings(deadline=None, max_examples=20)
@given(seeds, st.floats(0.01, 100))
def test_scale_and_order_of_images_change_nothing(seed: int, scale: float) -> None:
    queries, keys = random(N, D, seed=seed), random(N, D, seed=seed + 1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    after = embedding_health(scale * queries[order], keys[order])
    assert after == pytest.approx(embedding_health(queries, keys), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gives_nan_and_does_not_raise(bad: float) -> None:
    x = random(N, D)
    x[3, 2] = bad
    health = embedding_health(x, x)
    assert (health.pop("max_rank"), health.pop("instance_chance")) == (D, 100 / N)
    assert all(math.isnan(value) for value in health.values())


@pytest.mark.parametrize(("queries", "keys"), [((1, D), (1, D)), ((N, D), (N - 1, D)), ((N,), (N,))])
def test_shapes_that_do_not_fit_are_named(queries: tuple[int, ...], keys: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[N ≥ 2, D\]"):
        embedding_health(torch.zeros(queries), torch.zeros(keys))


# ------------------------------------------------------------------------------------------------ adversaries


def hardness(
    queries: Tensor, keys: Tensor, adversaries: Tensor, *, in_batch_negatives: bool = True
) -> dict[str, float]:
    return adversary_hardness(
        queries,
        keys,
        adversaries,
        temperature=0.12,
        adversary_temperature=0.02,
        in_batch_negatives=in_batch_negatives,
    )


def hardness_by_loops(queries: Tensor, keys: Tensor, adversaries: Tensor, in_batch_negatives: bool) -> dict[str, float]:
    q, k, a = rows(queries), rows(keys), rows(adversaries)
    shares = []
    for tau in (0.12, 0.02):
        total = 0.0
        for i in range(len(q)):
            hard = sum(math.exp(q[i] @ row / tau) for row in a)
            soft = sum(math.exp(q[i] @ k[j] / tau) for j in range(len(k)) if in_batch_negatives or j == i)
            total += hard / (hard + soft)
        shares.append(total / len(q))
    norms = [math.sqrt(sum(v * v for v in row)) for row in adversaries.double().numpy()]
    return {
        "adversary_share_in_loss": shares[0],
        "adversary_share_in_loss_adversary": shares[1],
        "hardest_adversary_cosine": sum(max(float(row @ x) for x in a) for row in q) / len(q),
        "adversary_concentration": float(np.linalg.norm(sum(a) / len(a))),
        "adversary_norm_min": min(norms),
        "adversary_norm_mean": sum(norms) / len(norms),
        "adversary_norm_max": max(norms),
    }


@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_hardness_equals_loops(in_batch_negatives: bool) -> None:
    queries, keys, adversaries = random(N, D), random(N, D, seed=1), 3 * random(K, D, seed=2)
    found = hardness(queries, keys, adversaries, in_batch_negatives=in_batch_negatives)
    assert found == pytest.approx(hardness_by_loops(queries, keys, adversaries, in_batch_negatives), rel=1e-4)


def test_hardness_of_a_large_batch_is_that_of_its_first_queries() -> None:
    """All keys stay in the denominator."""
    queries, keys, adversaries = random(80, D), random(80, D, seed=1), random(K, D, seed=2)
    q, k, a = torch.nn.functional.normalize(queries[:64]), torch.nn.functional.normalize(keys), adversaries
    logits = torch.cat([q @ k.T, q @ torch.nn.functional.normalize(a).T], dim=1) / 0.12
    share = logits.softmax(1)[:, 80:].sum(1).mean()
    assert hardness(queries, keys, adversaries)["adversary_share_in_loss"] == pytest.approx(float(share), rel=1e-4)


def test_adversaries_that_are_one_are_concentrated() -> None:
    queries, one = random(N, D), random(1, D).expand(K, D)
    assert hardness(queries, queries, one)["adversary_concentration"] == pytest.approx(1)
    assert hardness(queries, queries, torch.cat([one, -one]))["adversary_concentration"] == pytest.approx(0, abs=1e-6)


def test_every_query_finds_its_own_key_or_another() -> None:
    queries = random(N, D)
    assert embedding_health(queries, queries)["instance_top1"] == 100
    assert embedding_health(queries, queries.roll(1, 0))["instance_top1"] == 0


@pytest.mark.parametrize(("in_batch_negatives", "share"), [(True, K / (N + K)), (False, K / (1 + K))])
def test_collapsed_share_counts_the_rows(in_batch_negatives: bool, share: float) -> None:
    point = random(1, D)
    found = hardness(point.expand(N, D), point.expand(N, D), point.expand(K, D), in_batch_negatives=in_batch_negatives)
    assert found["adversary_share_in_loss"] == pytest.approx(share, rel=1e-4)
    assert found["adversary_share_in_loss_adversary"] == pytest.approx(share, rel=1e-4)
    assert found["hardest_adversary_cosine"] == pytest.approx(1)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_scaling_adversaries_changes_only_their_norms(seed: int) -> None:
    queries, keys, adversaries = random(N, D, seed=seed), random(N, D, seed=seed + 1), random(K, D, seed=seed + 2)
    scale = torch.rand(K, 1, generator=torch.Generator().manual_seed(seed)) * 10 + 0.1
    before, after = hardness(queries, keys, adversaries), hardness(queries, keys, adversaries * scale)
    for key in ("adversary_share_in_loss", "adversary_share_in_loss_adversary", "hardest_adversary_cosine"):
        assert after[key] == pytest.approx(before[key], rel=1e-3, abs=1e-5)


def test_precision_does_not_follow_autocast() -> None:
    queries, keys, adversaries = random(N, D), random(N, D, seed=1), random(K, D, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = hardness(queries, keys, adversaries) | embedding_health(queries, keys)
    assert inside == hardness(queries, keys, adversaries) | embedding_health(queries, keys)


@pytest.mark.parametrize("name", ["temperature", "adversary_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_temperatures_are_positive(name: str, value: float) -> None:
    x = random(N, D)
    temperatures: dict[str, Any] = {"temperature": 0.12, "adversary_temperature": 0.02} | {name: value}
    with pytest.raises(ValueError, match=f"^{name} must be positive"):
        adversary_hardness(x, x, x, **temperatures)
