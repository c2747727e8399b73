"""What is said of time, with a clock that the test turns."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from adco.cli.main import _configure_output
from adco.config.load import pretrain_settings
from adco.data.sources.arrays import ArraySource
from adco.training.console import Bar, TimeLeft, duration, progress, rank_zero_info, summary

METHOD: Any = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time in seconds, in `now`."""
    turned = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time, "perf_counter", lambda: turned.now)
    return turned


def trainer(epochs: int, accumulate: int = 1, first_step: int = 0) -> Any:
    return SimpleNamespace(
        global_step=first_step,
        current_epoch=0,
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
    )


def train(left: TimeLeft, run: Any, clock: SimpleNamespace, steps: int, *, step: float, pause: float = 0.0) -> None:
    """An epoch of steps of so many seconds, and a pause behind it."""
    left.on_train_epoch_start(run, METHOD)
    for index in range(steps * run.accumulate_grad_batches):
        clock.now += step / run.accumulate_grad_batches
        run.global_step += (index + 1) % run.accumulate_grad_batches == 0
        left.on_train_batch_end(run, METHOD, None, None, index)
    clock.now += pause
    run.current_epoch += 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0.4 s"),
        (9.6, "10 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3500, "58 min"),
        (12_000, "3 h 20 min"),
        (190_000, "2 d 4 h"),
    ],
)
def test_a_duration_is_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_one_epoch_class_and_thread_are_singular(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    source = ArraySource("few", np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64), ("a",))
    method: Any = SimpleNamespace(encoder=SimpleNamespace(backbone=torch.nn.Linear(2, 2)))
    settings: Any = pretrain_settings(data="few", epochs=1, batch_size=2, image_size=8)
    facts = summary(settings, source, method, torch.device("cpu"), processes=1)
    assert facts["images"] == "4 in few, 1 class (labels are used for kNN only)"
    assert facts["steps"] == "2 per epoch, 2 in 1 epoch"
    assert facts["device"].startswith("cpu (1 thread), ")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_time_left_is_that_of_the_steps_and_pauses_to_come(clock: SimpleNamespace, accumulate: int) -> None:
    left, run = TimeLeft(steps=400), trainer(epochs=4, accumulate=accumulate)
    clock.now += 500  # before training starts
    left.on_train_start(run, METHOD)
    train(left, run, clock, 100, step=2.0, pause=60.0)
    assert left.words == f"{duration(300 * 2)} left"
    left.on_train_epoch_start(run, METHOD)
    clock.now += 2
    run.global_step += 1
    left.on_train_batch_end(run, METHOD, None, None, accumulate - 1)
    assert left.words == f"{duration(299 * 2 + 3 * 60)} left"  # three more pauses: the last epoch has one too


def test_it_is_logged_after_the_first_steps_and_at_a_fiftieth_of_the_run(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    left, run = TimeLeft(steps=1000), trainer(epochs=1)
    left.on_train_start(run, METHOD)
    left.on_train_epoch_start(run, METHOD)
    for step in range(1, 4):  # slow ones first, as kernels load
        clock.now += 50
        run.global_step = step
        left.on_train_batch_end(run, METHOD, None, None, step - 1)
    assert (left.words, caplog.messages) == ("", [])
    for step in range(4, 31):
        clock.now += 3
        run.global_step = step
        left.on_train_batch_end(run, METHOD, None, None, step - 1)
    assert caplog.messages == [
        f"about {duration(994 * 3)} left (3 s per step, step 6 of 1000)",
        f"about {duration(980 * 3)} left (3 s per step, step 20 of 1000)",
    ]


def test_other_ranks_say_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    rank_zero_info("reading photos …")
    assert caplog.messages == []


def test_a_machine_that_becomes_slower_is_followed(clock: SimpleNamespace) -> None:
    left, run = TimeLeft(steps=100_000), trainer(epochs=1)
    left.on_train_start(run, METHOD)
    train(left, run, clock, 2000, step=1.0)
    train(left, run, clock, 2000, step=10.0)
    assert left.step.value == pytest.approx(10, rel=0.01)


def test_a_resumed_run_counts_its_own_steps(clock: SimpleNamespace) -> None:
    left, run = TimeLeft(steps=1000), trainer(epochs=1, first_step=900)
    left.on_train_start(run, METHOD)
    train(left, run, clock, 10, step=2.0)
    assert left.words == f"{duration(90 * 2)} left"


def test_lines_stand_above_the_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A long line, too, is written as it is: the terminal wraps it."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "60"}.items():  # as on a terminal
        monkeypatch.setenv(name, value)
    _configure_output()
    run = trainer(epochs=2)
    bar = Bar(40, TimeLeft(40), {"loss": 4.5})
    bar.on_train_start(run, METHOD)
    words = "epoch 1/2  loss 5.000 [a] " + "long " * 50 + "end"
    progress.info(words)
    bar.on_train_end(run, METHOD)
    captured = capsys.readouterr()
    assert captured.out == ""
    drawn, erased, below = captured.err.partition(f"\r\x1b[2K{words}\n")
    assert erased
    assert "loss 4.500" in drawn
    assert below.startswith("epoch 1/2 ")
