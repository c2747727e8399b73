"""What is measured before a run, with steps whose time the test sets."""

import math
import time
from itertools import count
from pathlib import Path
from typing import Literal

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors.torch import load_file

import adco
import tiny
from adco.config.load import pretrain_settings
from adco.data.sources.open import open_source
from adco.runs.directory import RunDirectory
from adco.training import rehearsal
from adco.training.module import autocast
from adco.training.rehearsal import Cost, TrialTraining, dry_run, fit_epochs

TINY = {**tiny.SETTINGS, "data": "few", "adversaries": 64, "batch_size": 32, "knn_images": 60}


def cost(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    monkeypatch.setattr(rehearsal, "measure", lambda *arguments: Cost(**seconds))


@pytest.mark.parametrize(
    ("minutes", "spent", "epochs", "words"),
    [
        (10.0, 0.0, 27, "minutes 10 allows for 27 epochs of about 20 s"),  # (570 - 20) / 20
        (10.0, 300.0, 12, "minutes 10 allows for 12 epochs"),
        (0.5, 0.0, 1, "one epoch takes about 40 s, longer than minutes 0.5 allows: training one"),
    ],
)
def test_as_many_epochs_are_chosen_as_fit(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    minutes: float,
    spent: float,
    epochs: int,
    words: str,
) -> None:
    cost(monkeypatch, before_first_step=20.0, step=5.0, epoch=20.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    chosen = fit_epochs(pretrain_settings(**TINY, minutes=minutes), open_source("few"), spent)
    assert (chosen.epochs, chosen.minutes) == (epochs, math.inf)
    assert words in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_a_run_by_the_clock_repeats_from_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its epochs are in it, and what was measured before it left no trace in the random numbers."""
    monkeypatch.setattr(rehearsal, "RESERVE", 0.0)
    real = rehearsal.measure
    monkeypatch.setattr(
        rehearsal, "measure", lambda *a: (real(*a), Cost(before_first_step=0.0, step=1.0, epoch=25.0))[1]
    )
    run = RunDirectory(adco.pretrain(**TINY, minutes=1.0, out=str(tmp_path / "run")))
    config = run.read_config()
    assert config["epochs"] in (1, 2)  # two, but for the seconds that measuring takes
    assert "minutes" not in config
    again = RunDirectory(adco.pretrain(run.config, out=str(tmp_path / "again")))
    expected, found = load_file(run.backbone), load_file(again.backbone)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_minutes_and_epochs_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^minutes 3 chooses the epochs, but epochs 5 is given: leave one out$"):
        adco.pretrain(**TINY, minutes=3, epochs=5, out=str(tmp_path / "run"))
    (tmp_path / "mine.yaml").write_text("epochs: 7\n")
    assert pretrain_settings(tmp_path / "mine.yaml", minutes=3).minutes == 3  # over a recipe's


def test_minutes_are_for_one_device() -> None:
    settings = pretrain_settings(**TINY, minutes=3, devices=2)
    with pytest.raises(ValueError, match="minutes 3 needs a run on one device"):
        fit_epochs(settings, open_source("few"))


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_are_timed_behind_a_warm_up(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Slow steps at the start, and where the pipeline fills, do not count."""
    settings = pretrain_settings(**TINY, workers=workers, accumulate=2)
    training = TrialTraining(settings, open_source("few"))
    clock = iter([0.0, 100.0, 200.0, *(300.0 + 2 * step for step in range(1000))])
    monkeypatch.setattr(TrialTraining, "_now", lambda self: next(clock))
    assert training.seconds_per_step(budget=1e6) == pytest.approx(2.0)


def test_measuring_ends_with_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrialTraining(pretrain_settings(**TINY), open_source("few"))
    clock = count(step=7)
    monkeypatch.setattr(TrialTraining, "_now", lambda self: next(clock))
    assert training.seconds_per_step(budget=10.0) == pytest.approx(7.0)
    assert next(clock) < 7 * 8


def test_an_epoch_of_several_devices_has_the_steps_of_the_whole_batch() -> None:
    source = open_source("few")
    for devices in (1, 2):
        more = {"batch_size": 8, "knn_images": 0, "warm_start_trains": False}
        settings = pretrain_settings(**{**TINY, **more}, devices=devices)
        training = TrialTraining(settings, source)
        cost = rehearsal.measure(source, training, budget=1.0)
        assert cost.epoch == pytest.approx(cost.step * (100 // 8))
        assert cost.before_first_step == pytest.approx(cost.step / 2 * 64 / 8)  # 64 adversaries


def test_a_dry_run_says_everything_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = dry_run(pretrain_settings(**TINY, epochs=7))
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}
    assert facts["images"] == "100 in few, 10 classes (labels are used for kNN only)"
    assert facts["steps"] == "3 per epoch, 21 in 7 epochs"
    assert facts["method"] == "adco, 32 images of 8 px per step"
    assert facts["backbone"].startswith("resnet18, 0.0")
    assert facts["device"].startswith("cpu (")
    assert facts["time"].startswith("about ")
    assert facts["memory"].endswith(("GB of cpu at the peak", "unknown"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_steps_are_measured_in_the_trainers_autocast(precision: Literal["bf16-mixed", "16-mixed"]) -> None:
    ours, theirs = autocast(torch.device("cpu"), precision), MixedPrecision(precision, "cpu").autocast_context_manager()
    states = []
    for context in (ours, theirs):
        with context:
            states.append((torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()))
    assert states[0] == states[1]
