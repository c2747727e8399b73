"""Accuracies against loops, and whole evaluations: chance stays chance, and the test images choose nothing."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from adco.cli.tables import scores_table
from adco.data.sources.arrays import ArraySource
from adco.evaluation.confusion import save_confusion
from adco.evaluation.evaluation import Evaluation, check_classes
from adco.evaluation.extract import extract_features
from adco.evaluation.features import Features
from adco.evaluation.knn import KNN
from adco.evaluation.linear import Linear
from adco.evaluation.scores import summarise, wilson_interval


def names(number: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(number))


def clusters(n: int, seed: int, classes: int = 10) -> Features:
    """Well separated classes; the centres are the same for every seed."""
    centres = 3 * torch.randn(classes, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return Features(centres[labels] + torch.randn(n, 16, generator=generator), labels)


def test_accuracies_equal_a_loop_over_images() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(500, 8)), generator.integers(0, 7, 500)  # class 7 has no image
    first, fifth = np.zeros(500), np.zeros(500)
    confusion = np.zeros((8, 8), int)
    for row in range(500):
        better = sum(scores[row] > scores[row, labels[row]])
        first[row], fifth[row] = better < 1, better < 5
        confusion[labels[row], scores[row].argmax()] += 1
    found = summarise(torch.from_numpy(scores), torch.from_numpy(labels), names(8))
    assert found.top1 == pytest.approx(100 * first.mean())
    assert found.top5 == pytest.approx(100 * fifth.mean())
    np.testing.assert_array_equal(found.confusion, confusion)
    per_class = [100 * first[labels == label].mean() for label in range(7)]
    assert list(found.per_class) == list(names(8))
    assert list(found.per_class.values())[:7] == pytest.approx(per_class)
    assert found.per_class["class 7"] is None
    assert found.per_class_mean == pytest.approx(np.mean(per_class))
    assert found.images == 500


def test_the_per_class_mean_counts_classes_not_images() -> None:
    labels = torch.tensor([0] * 98 + [1, 1])
    found = summarise(torch.tensor([[1.0, 0.0]]).expand(100, 2), labels, ("common", "rare"))
    assert found.top1 == 98
    assert found.per_class_mean == 50


@pytest.mark.parametrize(("classes", "shown"), [(2, False), (5, False), (6, True)])
def test_top5_is_given_from_six_classes_on(classes: int, shown: bool) -> None:
    found = summarise(torch.randn(9, classes), torch.zeros(9, dtype=torch.int64), names(classes))
    assert (found.top5 is not None) is shown


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 images are NaN"):
        summarise(torch.tensor([[0.0, 1.0], [1.0, torch.nan], [0.0, 0.0]]), torch.zeros(3, dtype=torch.int64), names(2))


@pytest.mark.parametrize("evaluation", [KNN(k=20), Linear()])
def test_an_evaluation_is_json_and_says_how_it_was_made(evaluation: Evaluation) -> None:
    found = evaluation.score_features(clusters(300, 1), clusters(200, 2), names(10))
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["top1"] == found.top1 > 95
    assert record["protocol"]["kind"] == evaluation.NAME
    assert record["protocol"]["train_images"] == 300
    assert record["images"] == 200
    assert {"k", "temperature"} <= set(record["protocol"]) or {"l2", "validation_top1"} <= set(record["protocol"])


@pytest.mark.parametrize("evaluation", [KNN(k=20), Linear()])
def test_shuffled_test_labels_are_at_chance(evaluation: Evaluation) -> None:
    test = clusters(2000, 2)
    shuffled = Features(test.features, test.labels[torch.randperm(2000, generator=torch.Generator().manual_seed(3))])
    found = evaluation.score_features(clusters(500, 1), shuffled, names(10))
    assert found.top1 == pytest.approx(10, abs=3)  # standard deviation 0.7
    assert found.top5 == pytest.approx(50, abs=5)


def test_the_test_split_does_not_choose_the_l2() -> None:
    train, test = clusters(400, 1), clusters(100, 2)
    other = Features(-7 * test.features, test.labels.flip(0))
    first, second = (Linear().score_features(train, split, names(10)).protocol for split in (test, other))
    assert first == second


@pytest.mark.parametrize("evaluation", [KNN(k=20), Linear()])
def test_a_backbone_is_evaluated_and_left_untouched(evaluation: Evaluation) -> None:
    generator = np.random.default_rng(0)

    def source(n: int) -> ArraySource:
        labels = np.arange(n) % 2
        images = generator.integers(0, 100, (n, 8, 8, 3)) + 100 * labels[:, None, None, None]  # dark and bright
        return ArraySource(f"{n} images", images.astype(np.uint8), labels, ("dark", "bright"))

    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    train, test = (
        extract_features(backbone, source(n), image_size=8, mean=(0.5,) * 3, std=(0.2,) * 3) for n in (60, 40)
    )
    found = evaluation.score_features(train, test, ("dark", "bright"))
    assert found.top1 > 95
    assert found.top5 is None
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(child.training for child in backbone.modules())


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (("cat", "dog"), ("cat", "emu"), "only in train: dog; only in test: emu"),
        (("cat", "dog"), ("dog", "cat"), "the order differs"),
    ],
)
def test_sources_of_different_classes_are_refused(train: Sequence[str], test: Sequence[str], message: str) -> None:
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1])
    sources = (ArraySource(n, images, labels, tuple(c)) for n, c in (("train", train), ("test", test)))
    with pytest.raises(ValueError, match=message):
        check_classes(*sources)


def test_impossible_evaluations_are_refused() -> None:
    two = Features(torch.eye(2), torch.tensor([0, 1]))
    one = Features(torch.eye(2), torch.tensor([1, 1]))
    wide = Features(torch.eye(2, 3), torch.tensor([0, 1]))
    negative = Features(torch.eye(2), torch.tensor([0, -1]))
    for train, test, classes, message in (
        (two, two, ("only",), "at least 2 classes"),
        (one, two, ("a", "b"), "all are of class b"),
        (two, wide, ("a", "b"), "must have the same width; got 2 and 3"),
        (two, negative, ("a", "b"), r"test labels must be in 0..1; got -1..0"),
        (Features(torch.eye(2), torch.tensor([0, 2])), two, ("a", "b"), r"training labels must be in 0..1"),
        (two, two, ("a", "a"), "class names must be unique"),
    ):
        with pytest.raises(ValueError, match=message):
            KNN().score_features(train, test, classes)
    with pytest.raises(ValueError, match="1 of 2 images are NaN"):
        Features(torch.tensor([[0.0], [torch.inf]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"features must be \[n, F\]"):
        Features(torch.eye(2), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("number", [2, 100])
def test_confusion_is_drawn_for_any_number_of_classes(number: int, tmp_path: Path) -> None:
    path = tmp_path / "confusion.png"
    path.write_text("the picture of before")
    confusion = torch.eye(number, dtype=torch.int64)
    confusion[0, 0] = 0  # a class without images
    save_confusion(path, confusion, [f"$class_{index}" for index in range(number)])
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 400 < image.width <= 3000
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20  # not blank
    assert list(tmp_path.iterdir()) == [path]


def test_table_shows_each_row_in_percent_and_the_majority_below() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    always_first = torch.tensor([[1.0, 0.0]]).expand(40, 2)
    rows = {"raw pixels": always_first, "AdCo": torch.eye(2)[labels]}
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(scores_table([(name, summarise(x, labels, ("a", "b")).to_json()) for name, x in rows.items()]))
    lines = [line.split() for line in console.export_text().splitlines() if "." in line]
    assert [line[-1] for line in lines] == ["50.0", "100.0", "50.0"]  # mean per class
    assert lines[0][2] == "75.0"
    assert lines[1][1] == "100.0"
    assert lines[2] == ["always", "the", "largest", "class", "75.0", "50.0"]


@pytest.mark.parametrize(("hits", "images"), [(0, 12), (12, 12), (1, 1), (7, 40), (8123, 10_000)])
def test_the_interval_is_scipys(hits: int, images: int) -> None:
    from scipy.stats import binomtest  # two seconds to import

    expected = binomtest(hits, images).proportion_ci(method="wilson")
    assert wilson_interval(100 * hits / images, images) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_the_majority_is_the_largest_class_of_the_test_images() -> None:
    found = summarise(torch.randn(50, 3), torch.tensor([0] * 10 + [2] * 37 + [1] * 3), names(3))
    assert found.majority == 74
    assert found.to_json()["top1_interval"] == list(found.interval)


def test_a_source_of_one_class_is_refused_before_features_are_taken() -> None:
    one = ArraySource("cats", np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64), ("cat",))
    with pytest.raises(ValueError, match="cats has 1 class; an evaluation needs at least 2"):
        check_classes(one, one)
