"""The papers' linear protocol against NumPy's SGD, and what it must leave alone."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adco.cli import main as cli
from adco.config.versions import current_evaluation
from adco.data.loader import Order
from adco.data.sources.arrays import ArraySource
from adco.data.sources.open import open_source
from adco.evaluation import sgd
from adco.evaluation.evaluation import Task
from adco.evaluation.extract import pixel_features
from adco.evaluation.linear import LinearProbe
from adco.evaluation.linear_sgd import LinearSGD
from adco.evaluation.sgd import Classifier, Images, fit_by_sgd
from adco.models.backbone import BackboneInfo
from adco.optim.players import Schedule
from adco.ranks import ALONE

pytestmark = pytest.mark.slow

MEAN, STD = (0.3, 0.3, 0.3), (0.4, 0.4, 0.4)
EPOCHS, BATCH, RATE = 3, 16, 2.0


class Rows(nn.Module):
    """Mean of each row of pixels and channel, which a flip leaves as it is; with BatchNorm, which must not move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.norm(x).mean(3).flatten(1)
        return features


@pytest.fixture
def source() -> ArraySource:
    digits = open_source("digits").subset(range(70))
    assert isinstance(digits, ArraySource)
    return digits


def task_of(backbone: nn.Module, source: ArraySource) -> Task:
    info = BackboneInfo("rows", 8, MEAN, STD)
    return Task(source, source, backbone, info, 8, partial(pixel_features, image_size=8), "cpu", ALONE)


def fit(backbone: nn.Module, source: ArraySource) -> LinearProbe:
    return fit_by_sgd(backbone, 24, task_of(backbone, source), epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE)


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")
def test_equals_numpys_sgd(source: ArraySource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where crops show all there is: features do not change from epoch to epoch."""
    monkeypatch.setattr(sgd, "CROP", (1.0, 1.0))
    backbone = Rows().train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    probe = fit(backbone, source)
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in before.items())

    assert source.labels is not None
    pixels = (source.images.astype(np.float64) / 255 - MEAN) / STD  # [n, 8, 8, 3]
    features = (pixels.mean(2) / np.sqrt(1 + 1e-5)).transpose(0, 2, 1).reshape(len(pixels), 24)
    torch.manual_seed(0)
    schedule = Schedule(peak=1.0, final=0.0, warmup_steps=0, steps=1)
    start = Classifier(backbone, 24, torch.zeros(1), 10, schedule, MEAN, STD).linear
    weight, bias = start.weight.detach().double().numpy(), start.bias.detach().double().numpy()
    assert 0.005 < weight.std() < 0.02
    velocity, shift = np.zeros_like(weight), np.zeros_like(bias)
    order, steps = Order(len(source), batch_size=BATCH, seed=0), EPOCHS * (len(source) // BATCH)
    places = [place for _ in range(EPOCHS) for (place,) in order]
    for step, place in enumerate(places):
        x, y = features[place.indices], source.labels[place.indices]
        logits = x @ weight.T + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(BATCH), y] -= 1
        rate = RATE / 1000 + RATE * 0.999 * 0.5 * (1 + math.cos(math.pi * step / steps))
        velocity, shift = 0.9 * velocity + p.T @ x / BATCH, 0.9 * shift + p.mean(0)
        weight, bias = weight - rate * velocity, bias - rate * shift
    np.testing.assert_allclose(probe.weight.numpy(), weight, atol=2e-4)
    np.testing.assert_allclose(probe.bias.numpy(), bias, atol=2e-4)
    scores = probe.scores(torch.from_numpy(features).float())
    np.testing.assert_allclose(scores.numpy(), features @ weight.T + bias, atol=2e-3)


def test_views_are_those_of_the_papers(source: ArraySource) -> None:
    """Crops of 8 to 100 % of the area and flips, no other augmentation (He et al. 2020, section 4.1)."""
    view = Images(source, 8, 3, BATCH).view
    assert (view.size, view.channels, view.scale, view.flip_probability) == (8, 3, (0.08, 1.0), 0.5)
    assert view.jitter_probability == view.grayscale_probability == view.blur_probability == 0


def test_the_evaluation_trains_with_its_settings(source: ArraySource, monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, Any] = {}

    def fit_instead(backbone: nn.Module, width: int, task: Task, **settings: Any) -> LinearProbe:
        used.update(settings)
        return LinearProbe(torch.zeros(10, 192), torch.zeros(10), torch.zeros(192), torch.ones(192), 0.0, {})

    monkeypatch.setattr(sgd, "fit_by_sgd", fit_instead)
    LinearSGD(epochs=3, batch_size=20, learning_rate=0.7).scores(task_of(Rows(), source))
    assert used == {"epochs": 3, "batch_size": 20, "learning_rate": 0.7}


def test_too_few_images_are_told(source: ArraySource) -> None:
    few = source.subset(range(5))
    with pytest.raises(ValueError, match="batch_size 16 must be at most 5, the number of training images of digits"):
        fit(Rows(), few)


def test_devices_that_do_not_divide_the_batch_are_told(source: ArraySource) -> None:
    """Images would be left out of each batch, silently."""
    images = Images(source, 8, 3, BATCH)
    images.trainer = SimpleNamespace(world_size=3, global_rank=0, num_devices=3)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="batch_size 16 must be a multiple of devices, here 3"):
        images.train_dataloader()


@pytest.mark.filterwarnings("ignore:protocol sgd is now")
def test_the_command_knows_it_by_both_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Until 0.2, `linear --protocol sgd` is the same."""
    arguments = ["--backbone", "resnet18", "--data", "digits", "--image_size", "8", "--device", "cpu"]
    flags = ["--epochs", "1", "--batch_size", "512", "--learning_rate", "0.1"]
    assert cli.run(["evaluate", "linear_sgd", *arguments, *flags]) == 0
    by_name = capsys.readouterr()
    assert cli.run(["evaluate", "linear", *arguments, "--protocol", "sgd", *flags]) == 0
    assert capsys.readouterr().out == by_name.out
    assert "trained by SGD on augmented images for 1 epoch" in by_name.out
    assert cli.run(["evaluate", "linear", "--protocol", "adam", *arguments]) == 2
    assert "protocol adam must be one of cached, sgd" in capsys.readouterr().err
    assert cli.run(["evaluate", "linear_sgd", *arguments, "--devices", "two"]) == 2
    assert "adco: devices two must be a whole number or one of auto" in capsys.readouterr().err


def test_a_flags_value_may_be_named_like_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", "--data", "linear", "knn", "--k", "3", "--backbone", "resnet18"]) == 2
    assert "data 'linear' is neither a folder nor one of" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["knn", "linear_sgd"])
def test_a_protocol_changes_no_other_evaluation(name: str) -> None:
    with pytest.warns(FutureWarning, match="protocol sgd is a former setting of linear and changes nothing here"):
        assert current_evaluation(name, "sgd") == name
