import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adco.health.verdict import ENOUGH, Verdict, looks_collapsed, verdict

Array = NDArray[np.float64]


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


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_too_early(n: int) -> None:
    assert verdict(history(n)).word == "too early to say"
    assert verdict(history(n, noise=0, spread=0.0, knn_every=1)).word == "too early to say"  # never higher


def test_one_curve_is_enough() -> None:
    found = verdict(only(history(40, noise=0), "spread"))
    assert found == Verdict("plateau", "no progress beyond noise: ")


def test_records_without_numbers_say_nothing() -> None:
    assert verdict([{"step": float(i), "phase": "warm start"} for i in range(50)]).word == "too early to say"


@pytest.mark.parametrize("n", [1, 100])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["loss", "effective_rank", "adversary_norm_max"])
def test_not_a_number(n: int, key: str, value: float) -> None:
    records = history(n)
    records[-1][key] = value
    assert verdict(records) == Verdict("not a number", f"the latest {key} is {value}")


def test_a_skipped_step_is_no_alarm() -> None:
    records = history(100)
    records[50]["loss"] = math.nan
    assert verdict(records).word == "plateau"


@pytest.mark.parametrize("knn_every", [0, 1, 10])
@pytest.mark.parametrize("n", [8, 10, 16, 30, 100])
def test_noise_is_a_plateau(n: int, knn_every: int) -> None:
    words = [verdict(history(n, seed, knn_every=knn_every)).word for seed in range(200)]
    assert set(words) <= {"plateau", "learning"}
    assert words.count("plateau") >= 190


@pytest.mark.parametrize(("done", "word"), [(0.1, "too early to say"), (0.19, "too early to say"), (0.21, "plateau")])
def test_a_plateau_needs_a_fifth_of_the_run(done: float, word: str) -> None:
    """The learning rate is still near its peak then, and slow progress is hidden by noise."""
    records = history(40)
    found = verdict(records, steps_of(records, done))
    assert found.word == word
    assert found.reason.startswith("no progress beyond noise: loss is flat")


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
    assert "loss is flat (5 → 5)" in found.reason


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
@pytest.mark.parametrize("end", [0.0, 0.08])
def test_a_spread_that_falls_to_nothing_is_collapsing(n: int, end: float) -> None:
    """As in SimSiam without its stop-gradient: the loss looks splendid."""
    sink = np.minimum(0.9, np.maximum(end, ramp(n, 3, -3)))  # over before the last third
    for seed in range(20):
        records = history(n, seed, noise=0.2, loss=falling(n, -0.2, -1), spread=sink, positive_cosine=1.0)
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
    """A head without BatchNorm may start there."""
    assert verdict(history(40, noise=0.1, spread=0.08)).word == "plateau"
    assert verdict(history(160, noise=0.1, spread=ramp(160, 0.02, 0.19))).word != "collapsing"
    assert verdict(history(80, noise=0.1, spread=0.08)).word == "collapsing"
    steps = 50 * 100  # records are 50 steps apart
    assert verdict(history(19, noise=0.1, spread=0.08), steps).word == "too early to say"
    assert verdict(history(22, noise=0.1, spread=0.08), steps).word == "collapsed"


def test_recovery_is_not_collapse() -> None:
    spread = np.interp(np.arange(100), [0, 20, 30, 75, 100], [0.9, 0.9, 0.02, 0.02, 0.18])
    assert verdict(history(100, noise=0.5, spread=spread)).word != "collapsing"


def test_a_rank_is_low_for_its_batch() -> None:
    """A batch of three, or two dimensions, cannot have a rank of five."""
    records = history(200, noise=0.02, effective_rank=2.4)
    assert verdict([record | {"max_rank": 3} for record in records]).word == "plateau"
    assert verdict([record | {"max_rank": 128} for record in records]).word == "collapsing"


def test_a_low_rank_is_never_learning_whatever_else_improves() -> None:
    for before in (4.0, 12.0):
        records = history(
            100,
            noise=0.1,
            loss=falling(100, 9, 4),
            effective_rank=np.maximum(3, ramp(100, before, -20)),
            knn_top1=ramp(100, 20, 70),
            knn_every=5,
        )
        for known in range(ENOUGH, 100):
            if max(record["effective_rank"] for record in records[known - 3 : known]) <= 5:
                assert verdict(records[:known]).word in ("collapsing", "not learning")


def test_a_falling_loss_is_not_learning_while_knn_falls() -> None:
    found = verdict(history(100, loss=falling(100, 9, 4), knn_top1=ramp(100, 60, 30), knn_every=5))
    assert found.word == "plateau"
    assert "kNN top-1 fell" in found.reason


def test_words_while_a_run_goes_on() -> None:
    """Given after every record of a good run, there is never an alarm; of a bad one, no alarm before the turn."""
    n = 240
    good = history(
        n, loss=falling(n, 9, 4.5), spread=1 - falling(n, 0.9, 0.05), knn_top1=80 - falling(n, 60, 10), knn_every=12
    )
    assert {verdict(good[:i]).word for i in range(1, n)} <= {"too early to say", "learning", "plateau"}
    turn = 150
    bad = history(n, loss=np.concatenate([falling(turn, 9, 4.5), ramp(n - turn, 4.7, 14)]))
    alarms = [i for i in range(1, n) if verdict(bad[:i]).word == "diverging"]
    assert turn < alarms[0] < turn + 40


# ------------------------------------------------------------------------------------------- floors and the end


def accuracy_and_floor(records: list[dict[str, float]], random: float, queries: int = 1000) -> list[dict[str, float]]:
    return [{"step": 0.0, "knn_top1_random": random, "knn_queries": queries}, *records]


def steps_of(records: Sequence[Mapping[str, float]], done: float) -> int:
    """The length of a run of which this part is over."""
    return round(records[-1]["step"] / done)


@pytest.mark.parametrize("done", [0.1, 0.5, 0.95, 1.0])
def test_below_random_weights_is_never_learning(done: float) -> None:
    """Whatever loss and rank do; in the first fifth, while a network may still catch up, it is no alarm either."""
    records = history(100, loss=falling(100, 9, 4), knn_top1=ramp(100, 20, 40), knn_every=5)
    found = verdict(accuracy_and_floor(records, random=50), steps_of(records, done))
    assert found.word == ("too early to say" if done < 0.2 else "not learning")
    assert found.reason.startswith("below random weights: kNN ")
    assert found.reason.endswith("random weights 50.0 %")


def test_a_run_that_begins_from_weights_is_measured_against_them() -> None:
    """Below them it has unlearned, even far above random weights."""
    records = history(100, loss=falling(100, 9, 4), knn_top1=ramp(100, 40, 45), knn_every=5)
    found = verdict([{"step": 0.0, "knn_top1_start": 60.0, "knn_queries": 1000}, *records], steps_of(records, 1.0))
    assert (found.word, found.reason.split(":")[0]) == ("not learning", "below the initial weights")


@pytest.mark.parametrize(("knn", "queries", "word"), [(47, 1000, "learning"), (46, 1000, "not learning")])
def test_noise_of_a_floor_is_that_of_its_images(knn: float, queries: int, word: str) -> None:
    """Two standard errors of 50 % on 1 000 images are 3.2 points; so are those of a difference of correlated hits."""
    records = history(100, noise=0.05, loss=falling(100, 9, 4), knn_top1=float(knn), knn_every=5)
    assert verdict(accuracy_and_floor(records, 50, queries), steps_of(records, 0.5)).word == word


@pytest.mark.parametrize(
    ("knn_every", "knn", "queries", "word"),
    [(100, 54, 1000, "learning"), (100, 53, 1000, "plateau"), (100, 54, 300, "plateau"), (50, 54, 1000, "plateau")],
)
def test_the_first_knn_is_compared_with_its_floor(knn_every: int, knn: float, queries: int, word: str) -> None:
    """Two standard errors of 52 % are 3.2 points on 1 000 images and 5.8 on 300; a second kNN shows the trend."""
    records = history(100, noise=0.05, knn_top1=float(knn), knn_every=knn_every)
    found = verdict(accuracy_and_floor(records, 50, queries), steps_of(records, 0.5))
    assert found.word == word
    assert found.reason.startswith(
        f"kNN {knn}.0 %, random weights 50.0 %, loss is flat" if word == "learning" else "no "
    )


@pytest.mark.parametrize("done", [0.3, 0.89, 0.92, 1.0])
def test_a_flat_end_is_finished_and_says_what_was_won(done: float) -> None:
    records = accuracy_and_floor(history(100, noise=0, knn_top1=53.4, knn_every=5), random=35.4)
    found = verdict(records, steps_of(records, done))
    if done < 0.9:
        assert found.word == "plateau"
    else:
        assert found == Verdict("finished", "kNN 53.4 %, 18.0 points above random weights")


def test_a_run_that_still_learns_is_finished_only_at_its_last_step() -> None:
    records = accuracy_and_floor(
        history(100, loss=falling(100, 9, 4), knn_top1=ramp(100, 40, 60), knn_every=5), random=35
    )
    assert verdict(records, steps_of(records, 0.95)).word == "learning"
    assert verdict(records, steps_of(records, 1)).word == "finished"


def test_a_finished_run_that_won_nothing_says_so() -> None:
    records = accuracy_and_floor(history(100, noise=0, loss=falling(100, 9, 4), knn_top1=36.0, knn_every=5), random=35)
    found = verdict(records, steps_of(records, 1))
    assert found.word == "finished"
    assert found.reason.startswith("kNN 36.0 %, random weights 35.0 %: the difference is within noise")


def own(values: Array, n: int = 256) -> list[dict[str, float]]:
    records = history(len(values), loss=falling(len(values), 9, 4))
    return [
        record | {"instance_top1": float(value), "instance_chance": 100 / n}
        for record, value in zip(records, values, strict=True)
    ]


def test_without_labels_instance_top1_stands_in() -> None:
    better, same = own(ramp(100, 2, 30)), own(np.full(100, 2.0))
    assert verdict(better, steps_of(better, 1)) == Verdict(
        "finished", "instance top-1 29.0 %, 27.0 points above the first step"
    )
    assert verdict(same, steps_of(same, 1)).word == "not learning"
    worse = own(ramp(100, 30, 2))
    assert verdict(worse, steps_of(worse, 0.5)).word == "plateau"  # though the loss falls


@pytest.mark.parametrize(("found", "word"), [(0.5, "collapsed"), (5.0, "collapsing")])
def test_queries_that_find_their_own_key_are_not_collapsed(found: float, word: str) -> None:
    records = [
        record | {"instance_top1": found, "instance_chance": 0.4}
        for record in history(60, noise=0.1, effective_rank=np.maximum(2, ramp(60, 60, -200)))
    ]
    assert verdict(records, steps_of(records, 0.8)).word == word


@pytest.mark.parametrize(("knn", "word"), [(30.0, "collapsed"), (42.0, "collapsing")])
def test_a_kNN_above_random_weights_does_not_stop_a_run(knn: float, word: str) -> None:
    records = history(60, noise=0.1, effective_rank=np.maximum(2, ramp(60, 60, -200)), knn_top1=knn, knn_every=3)
    records = accuracy_and_floor(records, random=33)
    assert verdict(records, steps_of(records, 0.8)).word == word
    stale = [record for record in records if "knn_top1" not in record or record["step"] < 600]
    assert verdict(stale, steps_of(records, 0.8)).word == "collapsed"  # measured before the collapse


@pytest.mark.parametrize("steps", [20, 60, 400, 10_000])
def test_a_collapse_is_stopped_in_the_first_fifth_of_any_run(steps: int) -> None:
    """One that is there after a tenth, with 200 records a run at most 20 steps apart."""
    every = min(20, max(1, steps // 200))
    ranks = [(step, 64.0 if step <= steps // 20 else 2.0) for step in range(1, steps) if step == 1 or step % every == 0]
    records = [{"step": float(step), "effective_rank": rank, "max_rank": 128.0} for step, rank in ranks]
    stopped = next(i for i in range(1, len(records)) if verdict(records[:i], steps).word == "collapsed")
    assert records[stopped - 1]["step"] <= max(4, steps / 5)


@pytest.mark.parametrize(("instance_top1", "looks"), [(2.0, True), (40.0, False)])
def test_a_low_rank_that_finds_its_own_keys_may_be_saved(instance_top1: float, looks: bool) -> None:
    """Spread and rank are as low in both: of 128 images, a collapsed encoder finds the key of a query by chance."""
    records = history(100, effective_rank=ramp(100, 60, 2), spread=ramp(100, 0.9, 0.05), noise=0.01)
    records = [{**record, "instance_top1": instance_top1, "instance_chance": 0.8} for record in records]
    assert looks_collapsed(records, steps=5000) is looks
