"""The few-label question: which images are drawn, that the numbers are those of `linear`, and what is written."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

import adco
import tiny
from adco.cli import main as cli
from adco.config.commands import ProbeSettings
from adco.data.sources.open import open_splits
from adco.data.sources.splits import draw_of_each_class
from adco.errors import InputError
from adco.evaluation.amounts import choose_points
from adco.evaluation.extract import extract_features
from adco.evaluation.features import Features
from adco.evaluation.few_labels import interval_of
from adco.evaluation.linear import Linear
from adco.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return tiny.untrained_run(tmp_path / "run", data="few")


def points(labels: np.ndarray[Any, Any], **settings: Any) -> list[tuple[str, int, int]]:
    return [(point.name, point.labels, point.draws) for point in choose_points(labels, ProbeSettings(**settings))]


@given(st.lists(st.integers(-1, 4), max_size=60), st.integers(1, 10), st.integers(0, 3))
def test_a_draw_has_so_many_of_each_class_and_holds_the_smaller_draws(labels: list[int], n: int, seed: int) -> None:
    some, more = (
        draw_of_each_class(np.array(labels, np.int64), lambda size, number=number: min(size, number), seed, 1).tolist()  # type: ignore[misc]
        for number in (n, n + 3)
    )
    there = Counter(label for label in labels if label >= 0)
    assert Counter(labels[index] for index in some) == {label: min(n, size) for label, size in there.items()}
    assert set(some) <= set(more)
    assert some == sorted(set(some))


def test_draws_differ_by_their_key_alone() -> None:
    labels = np.repeat(np.arange(5), 40)
    drawn = [tuple(draw_of_each_class(labels, lambda size: 3, seed, draw)) for seed in (0, 1) for draw in (0, 1)]
    assert len(set(drawn)) == 4
    assert drawn[0] == tuple(draw_of_each_class(labels, lambda size: 3, 0, 0))


def test_images_of_a_class_are_drawn_equally_often() -> None:
    labels = np.repeat(np.arange(2), 10)
    counts = np.bincount(
        np.concatenate([draw_of_each_class(labels, lambda size: 3, 0, draw) for draw in range(1000)]), minlength=20
    )
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_the_points_go_up_to_the_smallest_class_and_equal_ones_are_one() -> None:
    labels = np.repeat(np.arange(4), [100, 100, 100, 120])
    assert points(labels) == [
        ("1 per class, 1 %", 4, 5),
        ("2 per class", 8, 5),
        ("5 per class", 20, 5),
        ("10 per class", 40, 5),
        ("10 %", 42, 5),
        ("20 per class", 80, 5),
        ("50 per class", 200, 5),
        ("100 per class", 400, 5),
        ("100 %", 420, 1),
    ]


def test_shares_of_less_than_a_label_per_class_are_left_out() -> None:
    assert [name for name, *_ in points(np.repeat(np.arange(10), 9), labels_per_class=[])] == ["100 %"]


def test_many_labels_are_drawn_less_often() -> None:
    labels = np.repeat(np.arange(10), 5000)
    asked = points(labels, labels_per_class=[100, 500, 2000], label_shares=[], draws=7)
    assert [draws for *_, draws in asked] == [7, 4, 3]


def test_the_interval_is_of_draws_and_of_test_images() -> None:
    top1 = [50.0, 54.0, 55.0]
    low, high = interval_of(top1, 200)
    of_images = scipy.stats.binomtest(106, 200).proportion_ci(0.95, "wilson")
    half = scipy.stats.t(2).ppf(0.975) * np.std(top1, ddof=1) / 3**0.5
    assert low == pytest.approx(53 - np.hypot(half, 53 - 100 * of_images.low))
    assert high == pytest.approx(53 + np.hypot(half, 100 * of_images.high - 53))


def test_all_labels_have_the_interval_of_the_test_images_alone() -> None:
    of_images = scipy.stats.binomtest(30, 40).proportion_ci(0.95, "wilson")
    assert interval_of([75.0], 40) == pytest.approx((100 * of_images.low, 100 * of_images.high))


@pytest.mark.slow
def test_the_numbers_are_those_of_linear_on_the_same_images(run: RunDirectory) -> None:
    result = adco.probe(run.path, labels_per_class=[1, 4], label_shares=[1], draws=3, seed=5)
    backbone, info = adco.load_backbone(run.backbone)
    train, test = (
        extract_features(backbone, source, image_size=info.image_size, mean=info.mean, std=info.std)
        for source in open_splits("few")
    )
    classes = [str(digit) for digit in range(10)]
    for point, number in enumerate((1, 4)):
        expected = []
        for draw in range(3):
            chosen: list[int] = []
            for label in range(10):
                members = np.flatnonzero(train.labels.numpy() == label)
                key = np.random.SeedSequence((5, draw, label))
                chosen += members[
                    np.random.Generator(np.random.Philox(key)).permutation(len(members))[:number]
                ].tolist()
            subset = torch.tensor(sorted(chosen))
            scores = Linear().score_features(Features(train.features[subset], train.labels[subset]), test, classes)
            expected.append((scores.top1, scores.protocol["l2"]))
        found = result["networks"]["this backbone"][point]
        assert list(zip(found["top1"], found["l2"], strict=True)) == expected
        assert found["mean"] == pytest.approx(np.mean([top1 for top1, _ in expected]))
    assert result["networks"]["this backbone"][-1]["top1"] == [Linear().score_features(train, test, classes).top1]


@pytest.mark.slow
def test_one_label_per_class_has_a_fixed_l2(run: RunDirectory) -> None:
    result = adco.probe(run.path, labels_per_class=[1], label_shares=[], draws=4)
    assert {l2 for entries in result["networks"].values() for l2 in entries[0]["l2"]} == {0.01}


@pytest.mark.slow
def test_other_networks_see_the_same_draws(run: RunDirectory, tmp_path: Path) -> None:
    """The same weights under other names have the same accuracy in each draw; other weights have another."""
    other = tiny.untrained_run(tmp_path / "other", data="few", seed=1)
    names = f"{run.path}, {run.backbone},{other.path}"
    networks = adco.probe(run.path, against=names, labels_per_class=[2, 3], label_shares=[], draws=2)["networks"]
    assert list(networks) == [
        "this backbone",
        "random weights",
        "raw pixels",
        *(str(path) for path in (run.path, run.backbone, other.path)),
    ]
    assert networks[str(run.path)] == networks[str(run.backbone)] == networks["this backbone"]
    assert networks[str(other.path)] != networks["this backbone"]


@pytest.mark.slow
def test_the_result_is_kept_with_a_picture(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["probe", str(run.path), "--labels_per_class", "[1,2]", "--draws", "2"]
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    (file,) = run.results.glob("*.json")
    assert file.name == "probe-few.json"
    result = json.loads(file.read_text())
    assert [point["name"] for point in result["points"]] == ["1 per class, 10 %", "2 per class", "100 %"]
    for entries in result["networks"].values():
        assert f"{entries[0]['mean']:.1f} ({entries[0]['interval'][0]:.1f} to" in out
    picture = np.asarray(matplotlib.image.imread(file.with_suffix(".png")))
    assert picture.std() > 0.05  # not blank
    assert cli.run(arguments) == 0  # the same question has the same file, another one its own
    assert cli.run([*arguments, "--seed", "1"]) == 0
    assert len(list(run.results.glob("probe-few*.json"))) == 2


@pytest.mark.slow
def test_the_result_may_go_to_another_file(run: RunDirectory, tmp_path: Path) -> None:
    file = tmp_path / "there" / "mine.json"
    adco.probe(run.path, labels_per_class=[1], label_shares=[], draws=2, out=file)
    assert sorted(path.name for path in file.parent.iterdir()) == ["mine.json", "mine.png"]
    assert not run.results.exists()


WRONG: list[tuple[list[str], str]] = [
    (["--draws", "0"], "draws 0 must be at least 1"),
    (["--labels_per_class", "[0,1]"], "labels_per_class [0, 1] must be above 0"),
    (["--label_shares", "[2]"], "label_shares [2.0] must be above 0 and at most 1"),
    (["--labels_per_class", "[]", "--label_shares", "[]"], "leave nothing to probe"),
    (["--out", "table.txt"], "out table.txt must be a .json file"),
    (["--against", "nowhere"], "against nowhere is neither a run directory, nor a file of weights, nor a timm network"),
    (["--data", "nowhere"], "data 'nowhere' is neither a folder nor one of"),
    (["--backbone", "resnet18", "--data", "few"], "take either the run"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_line(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert cli.run(["probe", str(run.path), *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.out == ""
    assert not run.results.exists()


def test_more_labels_than_the_largest_class_has_are_refused() -> None:
    labels = np.array([0] * 3 + [1] * 5)
    assert choose_points(labels, ProbeSettings(labels_per_class=[5], label_shares=[]))[0].labels == 8
    with pytest.raises(InputError, match="labels_per_class 6 is too many: the largest class has 5 training images"):
        choose_points(labels, ProbeSettings(labels_per_class=[1, 6], label_shares=[]))
