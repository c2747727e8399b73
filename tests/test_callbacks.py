"""What happens around a step, with a Trainer that has only what the callbacks ask for."""

import json
import logging
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

from adco.data.batch import Batch
from adco.data.sources.arrays import ArraySource
from adco.methods.adco import AdCoSettings
from adco.methods.method import Method, MethodArguments
from adco.models.backbone import BackboneInfo
from adco.models.encoder import Encoder
from adco.optim.players import Schedule
from adco.runs.directory import RunDirectory
from adco.training.errors import CollapsedError, Interrupted, NotFiniteError
from adco.training.module import Pretraining
from adco.training.monitor import Monitor
from adco.training.online_knn import OnlineKNN
from adco.training.saving import Checkpoints, StopOnSignal


class StillMethod(Method):
    """A method that does nothing, in good health."""

    def __init__(self, own: dict[str, float]) -> None:
        schedule = Schedule(peak=0.1, final=0.0, warmup_steps=0, steps=10)
        super().__init__(Encoder(nn.Linear(2, 2), nn.Identity()), MethodArguments(schedule=schedule))
        self.own = own

    def metrics(self, queries: Tensor, keys: Tensor) -> dict[str, float]:
        return self.own


def Still(**own: float) -> Pretraining:
    return Pretraining(StillMethod(own or {"of_its_own": 7.0}))


class _Trainer(SimpleNamespace):
    """A run of two epochs of ten steps, on one device."""

    def __init__(self, accumulate: int = 1) -> None:
        super().__init__(
            global_step=0,
            current_epoch=0,
            max_epochs=2,
            world_size=1,
            is_last_batch=False,
            accumulate_grad_batches=accumulate,
            optimizers=[SimpleNamespace(param_groups=[{"lr": 0.03}])],
            is_global_zero=True,
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all=True: decision),
            loggers=[],
            train_dataloader=SimpleNamespace(waited=0.0),
            saved=[],
        )

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append((self.global_step, path))

    @property
    def lightning_module(self) -> Pretraining:
        return Still()


FakeTrainer: Any = _Trainer


def outputs(loss: float = 5.0) -> dict[str, Any]:
    embeddings = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    losses = {"loss": torch.tensor(loss, requires_grad=True), "loss_adversary": torch.tensor(6.0)}
    return {"losses": losses, "queries": embeddings, "keys": embeddings.roll(1, 0)}


def checkpoints(
    run: RunDirectory, every: int = 100, may_save: Callable[[Any], bool] = lambda trainer: True
) -> Checkpoints:
    run.write_config({})  # without it, the directory counts as gone
    return Checkpoints(run, BackboneInfo("resnet18", 8, (0, 0, 0), (1, 1, 1)), every=every, may_save=may_save)


class Neighbours:
    """An online kNN with a result given beforehand; 100 images ask."""

    queries = range(100)

    def __init__(self, *top1: float) -> None:
        self.top1 = list(top1)

    def __call__(self, backbone: nn.Module) -> float:
        return self.top1.pop(0)


def monitor_of(run: RunDirectory | None, *, log_every: int = 1, knn: Any = None, **settings: Any) -> Monitor:
    """A monitor of a run of two epochs of ten steps."""
    values = {"log_every": log_every, "learning_rate": 0.03, "projector_norm": True, **settings}
    return Monitor(run, settings=AdCoSettings(**values), steps=20, knn=knn)


def batch() -> Batch:
    return Batch([], torch.arange(8), 0)


@pytest.fixture
def start() -> Iterator[Callable[[Any], None]]:
    """Starts a callback that takes signals, and gives the signals back at the end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda callback: callback.take_signals()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def steps(
    callback: Any, trainer: Any, number: int, loss: float = 5.0, module: Pretraining | None = None, last: int = 10
) -> None:
    """So many optimizer steps, of as many batches each as are accumulated; `last` is the last of the epoch."""
    for index in range(number * trainer.accumulate_grad_batches):
        trainer.global_step += (index + 1) % trainer.accumulate_grad_batches == 0
        trainer.is_last_batch = trainer.global_step == last
        callback.on_train_batch_end(trainer, module or Still(), outputs(loss), batch(), index)


def test_every_so_many_steps_are_recorded_and_the_last_of_an_epoch(run: RunDirectory) -> None:
    monitor, trainer = monitor_of(run, log_every=4), FakeTrainer()
    steps(monitor, trainer, 10)
    *records, of_epoch = run.records()
    assert [record["step"] for record in records] == [1, 4, 8, 10]
    assert (of_epoch["step"], of_epoch["word"]) == (10, "too early to say")
    for record in records:
        assert (record["loss"], record["loss_adversary"], record["lr"], record["of_its_own"]) == (5.0, 6.0, 0.03, 7.0)
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in record.values())


def test_a_step_of_several_batches_is_recorded_once(run: RunDirectory) -> None:
    monitor, trainer = monitor_of(run, log_every=2), FakeTrainer(accumulate=3)
    steps(monitor, trainer, 4)
    assert [record["step"] for record in run.records()] == [1, 2, 4]


def test_a_lost_process_is_no_metric_that_is_left_out(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of divided negatives need all processes."""
    module = Still()

    def metrics(*embeddings: Tensor) -> dict[str, float]:
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer")

    monkeypatch.setattr(module.method, "metrics", metrics)
    with pytest.raises(RuntimeError, match="closed by peer"):
        steps(monitor_of(run), FakeTrainer(), 1, module=module)


def test_loggers_get_what_is_recorded(run: RunDirectory) -> None:
    monitor, trainer = monitor_of(run, log_every=2), FakeTrainer()
    logged: list[tuple[int, dict[str, float]]] = []
    trainer.loggers = [SimpleNamespace(log_metrics=lambda numbers, step: logged.append((step, numbers)))]
    steps(monitor, trainer, 4, last=4)
    assert [step for step, _ in logged] == [1, 2, 4, 4]
    assert logged[0][1]["loss"] == 5.0
    assert all(not isinstance(value, str) for _, numbers in logged for value in numbers.values())


def test_an_epoch_ends_with_a_verdict_in_a_line(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    monitor, trainer = monitor_of(run, log_every=2, knn=Neighbours(40.0, 61.25)), FakeTrainer()
    monitor.on_train_start(trainer, Still())
    steps(monitor, trainer, 10)
    (line,) = caplog.messages
    assert line.startswith("epoch 1/2  loss 5.000  kNN 61.2 % on held-out training images  ")
    assert line.endswith(" images/s  too early to say")
    assert len(line) <= 120
    record = run.records()[-1]
    assert (record["step"], record["epoch"], record["knn_top1"]) == (10, 0, 61.25)
    assert record["word"] == monitor.verdict().word == "too early to say"


def test_the_first_record_is_of_random_weights(run: RunDirectory) -> None:
    monitor = monitor_of(run, knn=Neighbours(40.0))
    monitor.on_train_start(FakeTrainer(), Still())
    assert run.records() == [{"step": 0, "epoch": 0, "knn_top1_random": 40.0, "knn_queries": 100}]
    again = monitor_of(run, knn=Neighbours())  # of a run that was stopped before its first checkpoint
    again.on_train_start(FakeTrainer(), Still())
    assert run.records() == again.history == monitor.history


def test_a_resumed_run_keeps_its_floor(run: RunDirectory) -> None:
    run.append({"step": 0, "epoch": 0, "knn_top1_random": 40.0, "knn_queries": 100})
    monitor, trainer = monitor_of(run, knn=Neighbours()), FakeTrainer()
    trainer.global_step = 5
    monitor.on_train_start(trainer, Still())
    assert monitor.history == [{"step": 0, "epoch": 0, "knn_top1_random": 40.0, "knn_queries": 100}]


def test_the_first_verdict_is_said_as_soon_as_it_is_known(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    monitor, trainer = monitor_of(run), FakeTrainer()
    steps(monitor, trainer, 9)
    (line,) = caplog.messages
    assert line.startswith("step 8/20  loss 5.000  ")
    assert line.endswith(" images/s  plateau")


def test_where_an_epoch_ends_its_line_is_the_only_one(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    monitor, trainer = monitor_of(run), FakeTrainer()
    trainer.global_step = 2  # the eighth record is of the epoch's last step
    steps(monitor, trainer, 8)
    (line,) = caplog.messages
    assert line.startswith("epoch 1/2  loss 5.000  ")
    assert line.endswith(" images/s  plateau")


def one_point() -> dict[str, Any]:
    found = outputs()
    return found | {"queries": torch.ones(8, 4), "keys": torch.ones(8, 4)}


def collapse(monitor: Monitor, trainer: Any, number: int) -> None:
    for _ in range(number):
        trainer.global_step += 1
        monitor.on_train_batch_end(trainer, Still(), one_point(), batch(), 0)


def test_a_collapsed_run_stops_and_says_what_to_try(run: RunDirectory) -> None:
    monitor, trainer = monitor_of(run), FakeTrainer()
    steps(monitor, trainer, 1)
    collapse(monitor, trainer, 2)
    with pytest.raises(
        CollapsedError, match=r"^collapsed at step 4: .* try --learning_rate 0.01 \(now 0.03\)"
    ) as raised:
        collapse(monitor, trainer, 1)
    assert "\n" not in str(raised.value)
    assert [record["step"] for record in run.records()] == [1, 2, 3, 4]


def test_a_collapsed_run_goes_on_if_asked(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    monitor, trainer = monitor_of(run, stop_when_collapsed=False), FakeTrainer()
    steps(monitor, trainer, 1)
    collapse(monitor, trainer, 6)
    assert monitor.verdict().word == "collapsed"
    said = caplog.messages
    assert len(said) == 2  # once, not at every step
    assert said[1].startswith("  collapsed: ")
    assert said[1].endswith("try --learning_rate 0.01 (now 0.03)")


@pytest.mark.parametrize("stop", [True, False])
def test_no_collapsed_state_is_saved_over_a_good_one(run: RunDirectory, stop: bool) -> None:
    monitor, trainer = monitor_of(run, stop_when_collapsed=stop), FakeTrainer()
    steps(monitor, trainer, 1)
    assert monitor.may_save(trainer)
    collapse(monitor, trainer, 1)
    assert monitor.may_save(trainer) != stop
    steps(monitor, trainer, 1)
    assert monitor.may_save(trainer)


@pytest.mark.parametrize(
    ("share", "rate", "words", "warns"),
    [
        (1e-5, 3.0, "adversaries asleep since step 1", True),
        (0.5, 3.0, None, False),
        (0.5, 0.0, "adversaries fixed", False),  # as the user asked for
    ],
)
def test_adversaries_that_do_nothing_are_named(
    run: RunDirectory, caplog: pytest.LogCaptureFixture, share: float, rate: float, words: str | None, warns: bool
) -> None:
    settings: dict[str, Any] = {"adversary_learning_rate": rate, "adversary_temperature": 0.02}
    monitor, trainer, module = (
        monitor_of(run, **settings),
        FakeTrainer(),
        Still(adversary_share_in_loss_adversary=share),
    )
    steps(monitor, trainer, 7, module=module, last=7)
    line, *more = caplog.messages
    assert line.endswith(f"too early to say{f', {words}' if words else ''}")
    assert len(line) <= 120
    assert len(more) == warns
    assert all(" try --adversary_" in reason for reason in more)
    assert [record.levelno for record in caplog.records[1:]] == [logging.WARNING] * len(more)
    caplog.clear()
    steps(monitor, trainer, 1, module=module, last=8)
    assert len(caplog.messages) == 1  # the reason is logged once


def test_other_ranks_write_and_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor, trainer = monitor_of(None, knn=math.nan), FakeTrainer()
    monitor.on_train_start(trainer, Still())
    steps(monitor, trainer, 3, last=3)
    assert caplog.messages == []
    assert list(tmp_path.iterdir()) == []


def test_records_past_the_checkpoint_are_cut_at_resume(run: RunDirectory) -> None:
    for step in range(1, 8):
        run.append({"step": step, "loss": float(step)})
    monitor, trainer = monitor_of(run, log_every=1), FakeTrainer()
    trainer.global_step = 5
    monitor.on_train_start(trainer, Still())
    steps(monitor, trainer, 2)
    assert [record["step"] for record in run.records()] == [1, 2, 3, 4, 5, 6, 7]
    assert [record["loss"] for record in monitor.history] == [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_run(run: RunDirectory, loss: float) -> None:
    monitor, trainer = monitor_of(run, log_every=1), FakeTrainer()
    steps(monitor, trainer, 2)
    with pytest.raises(NotFiniteError, match=r"at step 3: try a lower learning_rate or precision 32-true"):
        steps(monitor, trainer, 1, loss)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in run.metrics.read_text().splitlines()]
    assert (lines[-1]["step"], lines[-1]["loss"]) == (3, str(loss))


def test_a_step_is_looked_at_before_it_is_saved(run: RunDirectory) -> None:
    saving, trainer = checkpoints(run, every=3), FakeTrainer()
    steps(saving, trainer, 2, math.nan)
    with pytest.raises(NotFiniteError):
        steps(saving, trainer, 1, math.nan)
    assert trainer.saved == []
    assert not run.backbone.exists()


def test_backbone_and_curves_are_there_from_the_first_checkpoint_on(run: RunDirectory) -> None:
    saving, trainer = checkpoints(run, every=3), FakeTrainer()
    steps(saving, trainer, 2)
    assert not run.backbone.exists()
    steps(saving, trainer, 1)
    assert trainer.saved == [(3, run.checkpoint)]
    assert run.backbone.is_file()
    assert run.curves.is_file()


def test_a_step_of_several_batches_is_saved_once(run: RunDirectory) -> None:
    saving, trainer = checkpoints(run, every=2), FakeTrainer(accumulate=3)
    steps(saving, trainer, 4)
    assert [step for step, _ in trainer.saved] == [2, 4]


def test_weights_that_are_no_numbers_are_not_saved(run: RunDirectory) -> None:
    """The loss of a step is from before its update."""
    monitor, trainer, module = monitor_of(run, log_every=1), FakeTrainer(), Still()
    next(module.parameters()).data[1] = math.inf
    with pytest.raises(NotFiniteError, match="a weight is not finite"):
        steps(monitor, trainer, 1, module=module)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_stops_after_the_step(
    run: RunDirectory, start: Callable[[Any], None], number: signal.Signals, code: int
) -> None:
    stop, trainer = StopOnSignal(checkpoints(run), agree_every=20), FakeTrainer()
    start(stop)
    steps(stop, trainer, 2)
    assert trainer.saved == []
    signal.raise_signal(number)
    with pytest.raises(Interrupted, match=f"continue with: adco pretrain --resume {run.path}") as raised:
        steps(stop, trainer, 1)
    assert raised.value.exit_code == code
    assert trainer.saved == [(3, run.checkpoint)]


def test_a_signal_within_a_step_of_several_batches_waits_for_its_end(
    run: RunDirectory, start: Callable[[Any], None]
) -> None:
    stop, trainer = StopOnSignal(checkpoints(run), agree_every=20), FakeTrainer(accumulate=2)
    start(stop)
    signal.raise_signal(signal.SIGTERM)
    stop.on_train_batch_end(trainer, Still(), outputs(), batch(), 0)
    assert trainer.saved == []
    trainer.global_step = 1
    with pytest.raises(Interrupted):
        stop.on_train_batch_end(trainer, Still(), outputs(), batch(), 1)
    assert trainer.saved == [(1, run.checkpoint)]


def test_a_signal_does_not_save_what_is_no_number(run: RunDirectory, start: Callable[[Any], None]) -> None:
    stop, trainer = StopOnSignal(checkpoints(run), agree_every=20), FakeTrainer()
    start(stop)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(NotFiniteError):
        steps(stop, trainer, 1, math.nan)
    assert trainer.saved == []


def test_a_signal_keeps_the_checkpoint_from_before_a_collapse(run: RunDirectory, start: Callable[[Any], None]) -> None:
    saving, trainer = checkpoints(run, may_save=lambda trainer: False), FakeTrainer()
    stop = StopOnSignal(saving, agree_every=20)
    trainer.global_step = 2
    saving.on_train_start(trainer, Still())
    start(stop)
    signal.raise_signal(signal.SIGTERM)
    kept = "stopped; step 3 looks collapsed, so the checkpoint of step 2 is kept; continue with: "
    with pytest.raises(Interrupted, match=f"^{kept}adco pretrain --resume {run.path}$"):
        steps(stop, trainer, 1)
    assert trainer.saved == []
    assert not run.backbone.exists()


def test_a_signal_saves_a_collapsed_state_if_there_is_no_other(run: RunDirectory, start: Callable[[Any], None]) -> None:
    stop, trainer = StopOnSignal(checkpoints(run, may_save=lambda trainer: False), agree_every=20), FakeTrainer()
    start(stop)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"^stopped and saved; "):
        steps(stop, trainer, 1)
    assert trainer.saved == [(1, run.checkpoint)]


def test_handlers_are_given_back(run: RunDirectory) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop = StopOnSignal(checkpoints(run), agree_every=20)
    stop.take_signals()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    stop.restore_handlers()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("labels", "possible"), [([0, 0, 1, 1, 0, 1], True), ([1, 0, 0, 0, 0, 0], False)])
def test_neighbours_are_asked_only_if_they_can_differ(labels: list[int], possible: bool) -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    source = ArraySource("six", images, np.array(labels), ("a", "b"))
    assert OnlineKNN(source, BackboneInfo("resnet18", 8, (0, 0, 0), (1, 1, 1))).has_classes == possible
