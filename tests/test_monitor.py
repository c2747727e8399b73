import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from adco.monitor import Verdict, adversary_hardness, effective_rank, embedding_health, verdict

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
        "effective_rank": rank_by_eigenvalues(np.array(q)),
    }


def rank_by_eigenvalues(x: Array) -> float:
    """RankMe through the Gram matrix, independent of an SVD."""
    singular = [math.sqrt(max(v, 0)) for v in np.linalg.eigvalsh(x.T @ x if len(x) >= len(x.T) else x @ x.T)]
    p = [s / sum(singular) + 1e-7 for s in singular]
    return math.exp(-sum(v * math.log(v) for v in p))


def test_health_equals_loops() -> None:
    queries, keys = random(N, D), random(N, D, seed=1)
    assert embedding_health(queries, keys) == pytest.approx(health_by_loops(queries, keys), rel=1e-5)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20), (7, 7)])
def test_rank_equals_eigenvalues(shape: tuple[int, int]) -> None:
    x = random(*shape)
    assert effective_rank(x) == pytest.approx(rank_by_eigenvalues(x.double().numpy()), rel=1e-5)


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
    assert all(math.isnan(value) for value in embedding_health(x, x).values())


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
        "adversary_norm_min": min(norms),
        "adversary_norm_mean": sum(norms) / len(norms),
        "adversary_norm_max": max(norms),
    }


@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_hardness_equals_loops(in_batch_negatives: bool) -> None:
    queries, keys, adversaries = random(N, D), random(N, D, seed=1), 3 * random(K, D, seed=2)
    found = hardness(queries, keys, adversaries, in_batch_negatives=in_batch_negatives)
    assert found == pytest.approx(hardness_by_loops(queries, keys, adversaries, in_batch_negatives), rel=1e-4)


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


# ---------------------------------------------------------------------------------------------------- verdict


def history(
    n: int, seed: int = 0, noise: float = 1.0, knn_every: int = 0, **curves: Array | float
) -> list[dict[str, float]]:
    """A healthy run at rest, as real batches scatter, unless a curve says otherwise."""
    rng = np.random.default_rng(seed)
    rest = {"loss": (5.0, 0.08), "spread": (0.9, 0.005), "effective_rank": (60.0, 1.0), "positive_cosine": (0.8, 0.01)}
    if knn_every:
        rest["knn_top1"] = (50.0, 0.5)
    columns = {
        key: np.broadcast_to(curves.get(key, level), n) + noise * deviation * rng.normal(size=n)
        for key, (level, deviation) in rest.items()
    }
    records = [{"step": 50.0 * i} | {key: float(column[i]) for key, column in columns.items()} for i in range(n)]
    for i, record in enumerate(records):
        if knn_every and (i + 1) % knn_every:
            del record["knn_top1"]
    return records


def ramp(n: int, start: float, end: float, since: float = 0.0) -> Array:
    """`start` until the part `since` of the run, then a straight line to `end`."""
    return np.interp(np.linspace(0, 1, n), [since, 1], [start, end])


def falling(n: int, start: float, end: float) -> Array:
    return end + (start - end) * np.exp(-3 * np.linspace(0, 1, n))


def only(records: Sequence[Mapping[str, float]], *keys: str) -> list[dict[str, float]]:
    return [{key: record[key] for key in keys if key in record} for record in records]


LENGTHS = [20, 60, 300]


@pytest.mark.parametrize("n", [0, 1, 2, 5, 15])
def test_too_early(n: int) -> None:
    assert verdict(history(n)).word == "too early to say"
    assert verdict(history(n, spread=0.0, knn_every=1)).word == "too early to say"


def test_one_curve_is_enough() -> None:
    found = verdict(only(history(40, noise=0), "spread"))
    assert found == Verdict("plateau", "No progress beyond noise: spread stays (0.9 → 0.9).")


def test_records_without_numbers_say_nothing() -> None:
    assert verdict([{"step": float(i), "phase": "warm start"} for i in range(50)]).word == "too early to say"


@pytest.mark.parametrize("n", [1, 100])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["loss", "effective_rank", "adversary_norm_max"])
def test_not_a_number(n: int, key: str, value: float) -> None:
    records = history(n)
    records[-1][key] = value
    assert verdict(records) == Verdict("not a number", f"The latest {key} is {value}.")


def test_a_skipped_step_is_no_alarm() -> None:
    records = history(100)
    records[50]["loss"] = math.nan
    assert verdict(records).word == "plateau"


@pytest.mark.parametrize("knn_every", [0, 1, 10])
@pytest.mark.parametrize("n", [16, 30, 100])
def test_noise_is_a_plateau(n: int, knn_every: int) -> None:
    words = [verdict(history(n, seed, knn_every=knn_every)).word for seed in range(200)]
    assert set(words) <= {"plateau", "learning"}
    assert words.count("plateau") >= 190


def test_noise_that_lasts_is_no_divergence() -> None:
    """A loss that wanders (autocorrelation 0.5) or has heavy tails, on its own."""
    rng = np.random.default_rng(0)
    for n in (16, 30, 100):
        for _ in range(100):
            white = rng.standard_normal(n)
            wandering = [float(white[: i + 1] @ 0.5 ** np.arange(i, -1, -1)) for i in range(n)]
            for curve in (wandering, rng.standard_t(3, n)):
                found = verdict([{"loss": 5 + 0.1 * float(x)} for x in curve]).word
                assert found in ("plateau", "learning"), curve


@pytest.mark.parametrize("n", LENGTHS)
def test_constant_curves_are_a_plateau(n: int) -> None:
    found = verdict(history(n, noise=0, knn_every=1))
    assert found.word == "plateau"
    assert "loss stays (5 → 5)" in found.reason


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("known", [["loss"], ["step", "loss", "spread"], ["loss", "knn_top1", "effective_rank"]])
def test_a_falling_loss_is_learning(n: int, known: list[str]) -> None:
    for seed in range(20):
        found = verdict(only(history(n, seed, loss=falling(n, 9, 4.5), knn_every=4), *known))
        assert found.word == "learning"
        assert "loss fell" in found.reason


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize(
    "improves",
    [
        {"knn_top1": (30.0, 60.0)},
        {"effective_rank": (20.0, 70.0)},
        {"spread": (0.5, 0.9)},
        {"positive_cosine": (0.5, 0.9)},
    ],
)
def test_harder_adversaries_are_not_divergence(n: int, improves: dict[str, tuple[float, float]]) -> None:
    """The game: the loss rises all the time, and something, perhaps faint, shows that the encoder learns."""
    curves: dict[str, Any] = {key: ramp(n, *ends) for key, ends in improves.items()}
    for seed in range(20):
        records = history(n, seed, knn_every=max(1, n // 12), loss=ramp(n, 4, 8), **curves)
        assert verdict(records).word in ("learning", "plateau")


@pytest.mark.parametrize("n", [60, 300])
@pytest.mark.parametrize("known", [["loss"], ["loss", "knn_top1"], ["loss", "spread", "positive_cosine", "knn_top1"]])
@pytest.mark.parametrize("knn", [50, 20])
def test_a_loss_that_climbs_while_nothing_improves_is_diverging(n: int, known: list[str], knn: float) -> None:
    loss = np.concatenate([falling(n // 2, 9, 4.5), ramp(n - n // 2, 4.7, 12)])
    found = [
        verdict(only(history(n, seed, knn_every=n // 20, loss=loss, knn_top1=ramp(n, 50, knn, since=0.5)), *known))
        for seed in range(20)
    ]
    diverging = [reason for word, reason in found if word == "diverging"]
    assert len(diverging) >= 17  # noise may hint at an improvement, and the alarm waits
    assert all("loss rose" in reason for reason in diverging)


def test_a_small_climb_after_a_long_descent_is_a_plateau() -> None:
    n = 300
    loss = np.concatenate([falling(200, 9, 4.5), ramp(100, 4.6, 5.2)])
    assert verdict(history(n, loss=loss)).word == "plateau"


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_a_spread_that_falls_to_nothing_is_collapsing(n: int, end: float) -> None:
    """As in SimSiam without its stop-gradient: the loss looks splendid."""
    sink = np.minimum(0.9, np.maximum(end, ramp(n, 3, -3)))  # over before the last third
    for seed in range(20):
        records = history(n, seed, noise=0.5, loss=falling(n, -0.2, -1), spread=sink, positive_cosine=1.0)
        for known in (records, only(records, "spread")):
            found = verdict(known)
            assert found.word == "collapsing"
            assert "spread" in found.reason


@pytest.mark.parametrize("n", LENGTHS)
def test_a_rank_of_few_dimensions_is_collapsing(n: int) -> None:
    records = history(n, noise=0.1, loss=falling(n, 9, 6), effective_rank=np.maximum(1.5, ramp(n, 60, -60)))
    found = verdict(records)
    assert found.word == "collapsing"
    assert "effective rank" in found.reason


def test_a_start_near_one_point_is_given_time() -> None:
    """A head without BatchNorm starts there."""
    assert verdict(history(40, noise=0.5, spread=0.1)).word == "plateau"
    assert verdict(history(160, noise=0.5, spread=ramp(160, 0.02, 0.19))).word != "collapsing"
    assert verdict(history(80, noise=0.5, spread=0.1)).word == "collapsing"


def test_recovery_is_not_collapse() -> None:
    spread = np.interp(np.arange(100), [0, 20, 30, 75, 100], [0.9, 0.9, 0.02, 0.02, 0.18])
    assert verdict(history(100, noise=0.5, spread=spread)).word != "collapsing"


def test_a_low_rank_that_was_never_high_is_no_alarm() -> None:
    """A batch of three, or two dimensions."""
    assert verdict(history(200, noise=0.02, effective_rank=2.9)).word == "plateau"


def test_knn_that_rises_outweighs_a_low_rank() -> None:
    records = history(100, noise=0.1, effective_rank=ramp(100, 12, 3), knn_top1=ramp(100, 20, 70), knn_every=5)
    assert verdict(records).word == "learning"


def test_a_falling_loss_is_not_learning_while_knn_falls() -> None:
    found = verdict(history(100, loss=falling(100, 9, 4), knn_top1=ramp(100, 60, 30), knn_every=5))
    assert found.word == "plateau"
    assert "kNN top-1 fell" in found.reason


def test_words_while_a_run_goes_on() -> None:
    """Asked after every record of a good run, there is never an alarm; of a bad one, no alarm before the turn."""
    n = 240
    good = history(
        n, loss=falling(n, 9, 4.5), spread=1 - falling(n, 0.9, 0.05), knn_top1=80 - falling(n, 60, 10), knn_every=12
    )
    assert {verdict(good[:i]).word for i in range(1, n)} <= {"too early to say", "learning", "plateau"}
    turn = 150
    bad = history(n, loss=np.concatenate([falling(turn, 9, 4.5), ramp(n - turn, 4.7, 14)]))
    alarms = [i for i in range(1, n) if verdict(bad[:i]).word == "diverging"]
    assert turn < alarms[0] < turn + 40
