"""What happens around a step, with a Trainer that has only what the callbacks ask for."""

import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adco.callbacks import Interrupted, Monitor, NotFiniteError, OnlineKNN, StopOnSignal
from adco.data.loader import Batch
from adco.data.sources import ArraySource
from adco.encoder import BackboneInfo
from adco.methods.method import Method
from adco.run_directory import RunDirectory


class Still(Method):
    """A method that does nothing, in good health."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.ones(2))

    def health(self, queries: Tensor, keys: Tensor) -> dict[str, float]:
        return {"of_its_own": 7.0}


class _Trainer(SimpleNamespace):
    """A run of two epochs of ten steps, on one device."""

    def __init__(self, accumulate: int = 1, checkpoint_every: int = 0) -> None:
        super().__init__(
            global_step=0,
            current_epoch=0,
            max_epochs=2,
            world_size=1,
            is_last_batch=False,
            accumulate_grad_batches=accumulate,
            optimizers=[SimpleNamespace(param_groups=[{"lr": 0.03}])],
            checkpoint_callback=SimpleNamespace(_every_n_train_steps=checkpoint_every),
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
            loggers=[],
            train_dataloader=SimpleNamespace(waited=0.0),
            saved=[],
        )

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append((self.global_step, path))

    def print(self, *words: object, **options: Any) -> None:
        print(*words, **options)


FakeTrainer: Any = _Trainer


def outputs(loss: float = 5.0) -> dict[str, Any]:
    embeddings = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    losses = {"loss": torch.tensor(loss, requires_grad=True), "loss_adversary": torch.tensor(6.0)}
    return {"losses": losses, "queries": embeddings, "keys": embeddings.roll(1, 0)}


def batch() -> Batch:
    return Batch([], torch.arange(8), 0)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


@pytest.fixture
def start() -> Iterator[Callable[[Any, Any], None]]:
    """Starts a callback that takes signals, and gives the signals back at the end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda callback, trainer: callback.on_train_start(trainer, Still())
    for number, handler in handlers.items():
        signal.signal(number, handler)


def steps(callback: Any, trainer: Any, number: int, loss: float = 5.0, module: Still | None = None) -> None:
    """So many optimizer steps, of as many batches each as are accumulated."""
    for index in range(number * trainer.accumulate_grad_batches):
        trainer.global_step += (index + 1) % trainer.accumulate_grad_batches == 0
        trainer.is_last_batch = trainer.global_step == 10
        callback.on_train_batch_end(trainer, module or Still(), outputs(loss), batch(), index)


def test_every_so_many_steps_are_recorded_and_the_last_of_an_epoch(run: RunDirectory) -> None:
    monitor, trainer = Monitor(run, log_every=4, knn=None), FakeTrainer()
    steps(monitor, trainer, 10)
    records = run.records()
    assert [record["step"] for record in records] == [4, 8, 10]
    for record in records:
        assert (record["loss"], record["loss_adversary"], record["lr"], record["of_its_own"]) == (5.0, 6.0, 0.03, 7.0)
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in record.values())


def test_a_step_of_several_batches_is_recorded_once(run: RunDirectory) -> None:
    monitor, trainer = Monitor(run, log_every=2, knn=None), FakeTrainer(accumulate=3)
    steps(monitor, trainer, 4)
    assert [record["step"] for record in run.records()] == [2, 4]


def test_loggers_get_what_is_recorded(run: RunDirectory) -> None:
    monitor, trainer = Monitor(run, log_every=2, knn=None), FakeTrainer()
    logged: list[tuple[int, dict[str, float]]] = []
    trainer.loggers = [SimpleNamespace(log_metrics=lambda numbers, step: logged.append((step, numbers)))]
    steps(monitor, trainer, 4)
    monitor.on_train_epoch_end(trainer, Still())
    assert [step for step, _ in logged] == [2, 4, 4]
    assert logged[0][1]["loss"] == 5.0
    assert all(not isinstance(value, str) for _, numbers in logged for value in numbers.values())


def test_an_epoch_ends_with_a_verdict_in_a_line(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    monitor, trainer = Monitor(run, log_every=1, knn=lambda method: 61.25), FakeTrainer()
    steps(monitor, trainer, 10)
    monitor.on_train_epoch_end(trainer, Still())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("epoch 1/2  loss 5.000  kNN 61.2 %")
    assert "images/s, 0% of the time waiting for views  too early to say: 10 values so far" in line
    record = run.records()[-1]
    assert (record["step"], record["epoch"], record["knn_top1"]) == (10, 0, 61.25)
    assert record["word"] == monitor.verdict().word == "too early to say"


def test_other_ranks_write_and_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor, trainer = Monitor(None, log_every=1, knn=lambda method: 1 / 0), FakeTrainer()
    monitor.on_train_start(trainer, Still())
    steps(monitor, trainer, 3)
    monitor.on_train_epoch_end(trainer, Still())
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_records_past_the_checkpoint_are_cut_at_resume(run: RunDirectory) -> None:
    for step in range(1, 8):
        run.append({"step": step, "loss": float(step)})
    monitor, trainer = Monitor(run, log_every=1, knn=None), FakeTrainer()
    trainer.global_step = 5
    monitor.on_train_start(trainer, Still())
    steps(monitor, trainer, 2)
    assert [record["step"] for record in run.records()] == [1, 2, 3, 4, 5, 6, 7]
    assert [record["loss"] for record in monitor.history] == [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_run(run: RunDirectory, loss: float) -> None:
    monitor, trainer = Monitor(run, log_every=1, knn=None), FakeTrainer()
    steps(monitor, trainer, 2)
    with pytest.raises(NotFiniteError, match=r"at step 3: try a lower learning_rate or precision 32-true"):
        steps(monitor, trainer, 1, loss)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in run.metrics.read_text().splitlines()]
    assert (lines[-1]["step"], lines[-1]["loss"]) == (3, str(loss))


def test_a_step_that_is_saved_is_looked_at_though_it_is_not_recorded_otherwise(run: RunDirectory) -> None:
    monitor, trainer = Monitor(run, log_every=100, knn=None), FakeTrainer(checkpoint_every=3)
    steps(monitor, trainer, 2, math.nan)
    with pytest.raises(NotFiniteError):
        steps(monitor, trainer, 1, math.nan)


def test_weights_that_are_no_numbers_are_not_saved(run: RunDirectory) -> None:
    """The loss of a step is from before its update."""
    monitor, trainer, module = Monitor(run, log_every=1, knn=None), FakeTrainer(), Still()
    module.weight.data[1] = math.inf
    with pytest.raises(NotFiniteError, match="a weight is not finite"):
        steps(monitor, trainer, 1, module=module)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_stops_after_the_step(
    run: RunDirectory, start: Callable[[Any, Any], None], number: signal.Signals, code: int
) -> None:
    stop, trainer = StopOnSignal(run, agree_every=20), FakeTrainer()
    start(stop, trainer)
    steps(stop, trainer, 2)
    assert trainer.saved == []
    signal.raise_signal(number)
    with pytest.raises(Interrupted, match=f"go on with: adco pretrain --resume {run.path}") as raised:
        steps(stop, trainer, 1)
    assert raised.value.exit_code == code
    assert trainer.saved == [(3, run.checkpoint)]
    assert signal.getsignal(number) == signal.SIG_DFL  # a second one ends it at once


def test_a_signal_within_a_step_of_several_batches_waits_for_its_end(
    run: RunDirectory, start: Callable[[Any, Any], None]
) -> None:
    stop, trainer = StopOnSignal(run, agree_every=20), FakeTrainer(accumulate=2)
    start(stop, trainer)
    signal.raise_signal(signal.SIGTERM)
    stop.on_train_batch_end(trainer, Still(), outputs(), batch(), 0)
    assert trainer.saved == []
    trainer.global_step = 1
    with pytest.raises(Interrupted):
        stop.on_train_batch_end(trainer, Still(), outputs(), batch(), 1)
    assert trainer.saved == [(1, run.checkpoint)]


def test_a_signal_does_not_save_what_is_no_number(run: RunDirectory, start: Callable[[Any, Any], None]) -> None:
    stop, trainer = StopOnSignal(run, agree_every=20), FakeTrainer()
    start(stop, trainer)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(NotFiniteError):
        steps(stop, trainer, 1, math.nan)
    assert trainer.saved == []


def test_handlers_are_given_back(run: RunDirectory) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop = StopOnSignal(run, agree_every=20)
    stop.on_train_start(FakeTrainer(), Still())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    stop.teardown(FakeTrainer(), Still(), "fit")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("labels", "possible"), [([0, 0, 1, 1, 0, 1], True), ([1, 0, 0, 0, 0, 0], False)])
def test_neighbours_are_asked_only_if_they_can_differ(labels: list[int], possible: bool) -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    source = ArraySource("six", images, np.array(labels), ("a", "b"))
    assert OnlineKNN(source, BackboneInfo("resnet18", 8, (0, 0, 0), (1, 1, 1))).has_classes == possible
