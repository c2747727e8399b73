"""A run that was stopped, however and wherever, ends with the same bits as one that was not."""

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

import adco
import tiny
from adco.cli import main as cli
from adco.config.load import pretrain_settings
from adco.config.pretrain import to_dict
from adco.optim.optimizers import MuonSGD
from adco.runs.directory import RunDirectory
from adco.training.errors import Interrupted
from adco.training.monitor import Monitor
from adco.training.saving import StopOnSignal
from program import descendants, forkserver

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_curves")]

STEPS, EPOCHS = 4, 3  # steps an epoch
LAST = STEPS * EPOCHS
TINY: dict[str, Any] = {
    **tiny.SETTINGS,
    "data": "few",
    "adversaries": 100,
    "epochs": EPOCHS,
    "batch_size": 24,
    "log_every": 1,
    "knn_images": 20,
    "seed": 3,
}

# The command in a process and a group of its own, without curves.
PROGRAM = """
import multiprocessing, os, sys, signal
os.setsid()
multiprocessing.set_start_method(None, force=True)  # workers start as in any other process
for number, path in ((1, {folder!r} + "/stdout"), (2, {folder!r} + "/stderr")):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
import tiny
from adco.cli import main as cli
from adco.training import saving, monitor
saving.plot_curves = lambda records, path: None
{hook}
sys.exit(cli.run({arguments!r}))
"""

SIGNAL_AT = """
owner = {{"Monitor": monitor, "Checkpoints": saving, "StopOnSignal": saving}}["{callback}"].{callback}
receive = owner.on_train_batch_end
def hook(self, trainer, module, outputs, batch, index):
    if trainer.global_step == {step}:
        os.kill(os.getpid(), {number})
    receive(self, trainer, module, outputs, batch, index)
owner.on_train_batch_end = hook
"""


PARTS = {  # of a checkpoint, by method
    "adco": {"encoder", "momentum_encoder", "adversaries"},
    "caco": {"encoder", "momentum_encoder", "bank"},
    "moco": {"encoder", "momentum_encoder", "queue", "oldest"},
    "simclr": {"encoder"},
    "byol": {"encoder", "target", "predictor"},
    "simsiam": {"encoder", "predictor"},
}


def with_settings(**settings: Any) -> dict[str, Any]:
    """TINY and these; None takes one away."""
    return {name: value for name, value in {**TINY, **settings}.items() if value is not None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunDirectory]:
    """Uninterrupted runs, one for each kind of settings."""
    known: dict[str, RunDirectory] = {}

    def train(**settings: Any) -> RunDirectory:
        key = json.dumps(settings, sort_keys=True)
        if key not in known:
            out = tmp_path_factory.mktemp("whole") / "run"
            known[key] = RunDirectory(adco.pretrain(**with_settings(**settings), out=str(out)))
        return known[key]

    return train


@pytest.fixture
def processes() -> ForkServerContext:
    return forkserver()


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send this process a signal while it is at a step."""
    receive = StopOnSignal.on_train_batch_end

    def hook(self: StopOnSignal, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if trainer.global_step == step:
            signal.raise_signal(number)
        receive(self, trainer, module, outputs, batch, index)

    monkeypatch.setattr(StopOnSignal, "on_train_batch_end", hook)


def assert_backbone_of(run: RunDirectory, step: int) -> None:
    """The checkpoint is of this step, and so is the backbone beside it."""
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    assert checkpoint["global_step"] == step
    for name, weights in load_file(run.backbone).items():
        assert torch.equal(weights, checkpoint["state_dict"][f"encoder.backbone.{name}"])


def assert_same_run(found: RunDirectory, expected: RunDirectory) -> None:
    weights, others = load_file(found.backbone), load_file(expected.backbone)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    mine, theirs = (torch.load(run.checkpoint, weights_only=True) for run in (found, expected))
    assert {name.split(".")[0] for name in mine["state_dict"]} == PARTS[found.read_config()["method"]]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_equal(mine[key], theirs[key], key)
    assert records_of(found) == records_of(expected)


def assert_equal(found: Any, expected: Any, where: str) -> None:
    """Bit for bit, down to the last tensor."""
    assert type(found) is type(expected), where
    if isinstance(found, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(found, dict):
        assert found.keys() == expected.keys(), where
        for key in found:
            assert_equal(found[key], expected[key], f"{where}.{key}")
    elif isinstance(found, list):
        assert len(found) == len(expected), where
        for i, (x, y) in enumerate(zip(found, expected, strict=True)):
            assert_equal(x, y, f"{where}.{i}")
    else:
        assert found == expected, where


def records_of(run: RunDirectory) -> list[dict[str, Any]]:
    """The records as they stand in the file, without what a clock says."""
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    clocks = {"images_per_second", "waiting_for_data"}
    return [{k: v for k, v in record.items() if k not in clocks} for record in records]


def losses(run: RunDirectory) -> list[dict[str, Any]]:
    """The records of steps."""
    return [record for record in records_of(run) if "loss" in record]


def start(context: ForkServerContext, folder: Path, arguments: list[str], hook: str = "") -> BaseProcess:
    """Start the command; what it says is in `stdout` and `stderr` in the folder."""
    code = PROGRAM.format(folder=str(folder), arguments=arguments, hook=hook)
    process = context.Process(target=exec, args=(code, {}))
    process.start()
    return process


def flags(out: Path, **settings: Any) -> list[str]:
    values = {**TINY, **settings, "out": str(out)}
    return ["pretrain", *(f"--{name}={json.dumps(v) if isinstance(v, dict) else v}" for name, v in values.items())]


def wait_for(run: RunDirectory, step: int, is_alive: Callable[[], bool]) -> None:
    """Until the run has recorded the step, or its process has ended."""
    while is_alive() and not any(float(record["step"]) >= step for record in run.records()):
        time.sleep(0.01)


def assert_stopped(run: RunDirectory, out: str, err: str) -> None:
    """The command has said how to go on and nothing in anyone else's words."""
    assert out == ""
    *before, last = err.splitlines()
    assert last == f"adco: stopped and saved; continue with: adco pretrain --resume {run.path}"
    assert all(line.startswith(("adco: ", "  ", "step ", "epoch ")) for line in before), err


# In this process, at every kind of step


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 1, 2 * STEPS - 1, LAST])
def test_a_run_stopped_at_any_step_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[..., RunDirectory], step: int
) -> None:
    expected, run = whole(), RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Interrupted):
            adco.pretrain(**TINY, out=str(run.path))
    assert_backbone_of(run, step)
    adco.pretrain(resume=run.path)
    assert_same_run(run, expected)


def test_a_signal_between_two_epochs_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[..., RunDirectory]
) -> None:
    """It comes while the epoch's line is made, and is heard at the end of the next step."""
    ends, run = Monitor.on_train_epoch_end, RunDirectory(tmp_path / "run")

    def end(self: Monitor, trainer: L.Trainer, module: L.LightningModule) -> None:
        ends(self, trainer, module)
        if trainer.current_epoch == 0:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "on_train_epoch_end", end)
        with pytest.raises(Interrupted, match="stopped and saved") as stop:
            adco.pretrain(**TINY, out=str(run.path))
    assert stop.value.exit_code == 143
    assert_backbone_of(run, STEPS + 1)
    adco.pretrain(resume=run.path)
    assert_same_run(run, whole())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_before_the_first_step_is_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    monkeypatch.setattr(Monitor, "on_train_start", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped and saved; continue with: adco pretrain --resume") as stop:
        adco.pretrain(**TINY, out=str(tmp_path / "run"), accumulate=accumulate)
    assert stop.value.exit_code == 143


VARIANTS: list[dict[str, Any]] = [
    {"accumulate": 2},
    {"symmetric": True, "small_crops": [[6, 0.1, 0.4]], "warmup_epochs": 1.5, "split_groups": 3},
    {"workers": 2},
    {"knn_images": 60, "log_every": 3, "checkpoint_every": 3},
    {"precision": "64-true", "warm_start": False, "in_batch_negatives": False, "channels_last": False},
    {"method": "moco", "queue": 40, "adversaries": None},
    {"method": "caco", "bank": 40, "accumulate": 2, "adversaries": None},
    {"method": "simclr", "adversaries": None},
    {"method": "byol", "accumulate": 2, "adversaries": None},
    {"method": "simsiam", "optimizer": "muon", "dim": 16, "adversaries": None},
    {"optimizer": "adamw"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: ",".join(map(str, variant.items())))
def test_a_run_stopped_twice_goes_on_with_any_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[..., RunDirectory], variant: dict[str, Any]
) -> None:
    expected, run = whole(**variant), RunDirectory(tmp_path / "run")
    for step, settings in [(STEPS + 1, with_settings(**variant, out=str(run.path))), (2 * STEPS, None)]:
        with monkeypatch.context() as patch:
            stop_at(patch, step, signal.SIGINT)
            with pytest.raises(Interrupted):
                adco.pretrain(**(settings or {"resume": run.path}))
    adco.pretrain(resume=str(run.path))
    assert_same_run(run, expected)


@pytest.mark.fault("a run with another number of workers")
def test_workers_change_nothing(whole: Callable[..., RunDirectory]) -> None:
    assert_same_run(whole(workers=2), whole())


def test_a_finished_run_resumed_stays_what_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDirectory(adco.pretrain(**TINY, out=str(tmp_path / "run")))
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    caplog.clear()
    assert adco.pretrain(resume=run.path) == run.path
    (line,) = caplog.messages
    assert line == (
        f"{run.path} is finished, with {EPOCHS} epochs; train it for longer with: "
        f"adco pretrain --resume {run.path} --epochs {2 * EPOCHS}"
    )
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_run_without_a_checkpoint_starts_anew(run: RunDirectory, whole: Callable[..., RunDirectory]) -> None:
    """As one that was killed in its first steps."""
    run.write_config(whole().read_config())
    run.append({"step": 1, "loss": 7.0})
    adco.pretrain(resume=run.path)
    assert_same_run(run, whole())


def test_a_run_stopped_while_it_looks_collapsed_goes_on_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[..., RunDirectory]
) -> None:
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "may_save", lambda self, trainer: trainer.global_step <= STEPS)
        stop_at(patch, STEPS + 2)
        with pytest.raises(Interrupted, match=f"step {STEPS + 2} looks collapsed"):
            adco.pretrain(**TINY, out=str(run.path))
    assert_backbone_of(run, STEPS)
    adco.pretrain(resume=run.path)
    assert_same_run(run, whole())


def test_a_run_that_ends_collapsed_keeps_its_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "may_save", lambda self, trainer: trainer.global_step <= 2 * STEPS)
        adco.pretrain(**TINY, out=str(run.path))
    kept = f"step {LAST} looks collapsed, so the checkpoint of step {2 * STEPS} is kept"
    assert ("adco", logging.WARNING, kept) in caplog.record_tuples
    assert_backbone_of(run, 2 * STEPS)
    assert run.is_finished
    adco.pretrain(resume=run.path, epochs=EPOCHS + 1)
    assert f"from step {2 * STEPS} on" in caplog.text
    assert [record["step"] for record in losses(run)] == list(range(1, LAST + STEPS + 1))
    assert_backbone_of(run, LAST + STEPS)


def test_every_epoch_has_one_verdict_though_the_run_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(patch, STEPS + 2)
        with pytest.raises(Interrupted):
            adco.pretrain(**TINY, out=str(run.path))
    adco.pretrain(resume=run.path)
    assert [record["epoch"] for record in run.records() if "word" in record] == list(range(EPOCHS))


def test_nothing_else_may_be_given_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'{tmp_path}' is not a run directory: it has no config.yaml"):
        adco.pretrain(resume=tmp_path)
    with pytest.raises(ValueError, match=r"except epochs, data, .*: leave out seed, recipe$"):
        adco.pretrain("cifar10_demo", resume=tmp_path, epochs=3, seed=2)


def test_a_checkpoint_that_cannot_go_on_is_named(tmp_path: Path, whole: Callable[..., RunDirectory]) -> None:
    run = RunDirectory(Path(shutil.copytree(whole().path, tmp_path / "run")))
    run.write_unfinished()
    config = run.read_config()
    run.write_config({**config, "hidden": 64})
    with pytest.raises(
        ValueError, match=r"does not fit .*; was config.yaml edited\? .* encoder.projector.0.* is \[32.*, \[64"
    ):
        adco.pretrain(resume=run.path)
    run.write_config(config)
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:1000])
    for use in (lambda: adco.pretrain(resume=run.path), lambda: adco.evaluate("knn", run.checkpoint)):
        with pytest.raises(ValueError, match=r"last.ckpt is damaged \(torch.save did not write it\): delete it"):
            use()
    run.write_config({name: value for name, value in config.items() if name != "data"})
    with pytest.raises(ValueError, match=r"the run's config.yaml has no value for data: it is damaged or was edited"):
        adco.pretrain(resume=run.path)
    run.config.write_text("- no settings")
    with pytest.raises(ValueError, match=r"config.yaml does not contain the settings of a run"):
        adco.pretrain(resume=run.path)


@pytest.mark.fault("a second process is to train in the same directory")
def test_two_processes_do_not_train_in_one_directory(
    tmp_path: Path, whole: Callable[..., RunDirectory], report: Callable[..., None]
) -> None:
    run = RunDirectory(Path(shutil.copytree(whole().path, tmp_path / "run")))
    run.write_unfinished()
    message = f"another process is already training in {run.path}"
    with run.locked(), pytest.raises(ValueError, match=message) as raised:
        adco.pretrain(resume=run.path)
    report(says=raised.value)


# Other lengths


def rates(run: RunDirectory) -> list[float]:
    return [float(record["lr"]) for record in run.records() if "loss" in record]


SGD: dict[str, Any] = {**TINY, "optimizer": "sgd"}


def cosine(step: int, steps: int) -> float:
    """AdCo's rate of 0.03 per 256 images, down to a fiftieth of it."""
    peak = 0.03 * float(TINY["batch_size"]) / 256
    return peak / 50 + (peak - peak / 50) * (1 + math.cos(math.pi * step / steps)) / 2


@pytest.mark.parametrize(("done", "epochs"), [(None, EPOCHS + 2), (STEPS + 1, EPOCHS + 2), (STEPS + 1, 2), (STEPS, 1)])
def test_a_run_becomes_longer_or_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, done: int | None, epochs: int
) -> None:
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        if done:
            stop_at(patch, done)
        with pytest.raises(Interrupted) if done else nullcontext():
            adco.pretrain(**SGD, out=str(run.path))
    before, kept = losses(run), done or LAST
    caplog.clear()
    adco.pretrain(resume=run.path, epochs=epochs)
    assert f"{epochs} epoch{'s' if epochs > 1 else ''} instead of {EPOCHS}: from step {kept} on" in caplog.text
    assert losses(run)[:kept] == before
    assert run.is_finished
    assert run.read_config()["epochs"] == epochs
    last = epochs * STEPS
    # A record's rate is that of the step behind it.
    expected = [cosine(step, LAST) for step in range(1, kept + 1)]
    expected += [cosine(step, last) for step in range(kept + 1, last + 1)]
    assert rates(run) == pytest.approx(expected)


def test_the_first_step_behind_a_change_of_length_has_the_new_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate that a finished run's checkpoint holds is that of its end."""
    taken: list[float] = []
    step = MuonSGD.step

    def watch(self: MuonSGD, closure: Any = None) -> Any:
        taken.append(self.param_groups[0]["lr"])
        return step(self, closure)

    run = RunDirectory(adco.pretrain(**SGD, out=str(tmp_path / "run")))
    monkeypatch.setattr(MuonSGD, "step", watch)
    adco.pretrain(resume=run.path, epochs=2 * EPOCHS)
    assert taken == pytest.approx([cosine(number, 2 * LAST) for number in range(LAST, 2 * LAST)])


def test_a_longer_run_stopped_again_goes_on_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [RunDirectory(adco.pretrain(**TINY, out=str(tmp_path / name))) for name in ("a", "b")]
    with monkeypatch.context() as patch:
        stop_at(patch, LAST + 2)
        with pytest.raises(Interrupted):
            adco.pretrain(resume=runs[0].path, epochs=EPOCHS + 1)
    assert not runs[0].is_finished
    adco.pretrain(resume=runs[0].path)
    adco.pretrain(resume=runs[1].path, epochs=EPOCHS + 1)
    assert_same_run(*runs)


def test_a_run_made_longer_before_its_first_checkpoint_is_one_of_that_length(
    run: RunDirectory, whole: Callable[..., RunDirectory]
) -> None:
    run.write_config({**whole().read_config(), "epochs": 7})
    adco.pretrain(resume=run.path, epochs=EPOCHS)
    assert_same_run(run, whole())


def test_a_run_is_not_made_shorter_than_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(patch, STEPS + 1)
        with pytest.raises(Interrupted):
            adco.pretrain(**TINY, out=str(run.path))
    before = run.config.read_text()
    with pytest.raises(ValueError, match=f"^epochs 1 must be at least 2: the run has done {STEPS + 1} steps"):
        adco.pretrain(resume=run.path, epochs=1)
    assert run.config.read_text() == before


# In processes that are really stopped


@pytest.mark.parametrize("workers", [0, 2])
def test_the_command_stopped_by_a_signal_says_how_to_go_on(
    tmp_path: Path, processes: ForkServerContext, workers: int
) -> None:
    run = RunDirectory(tmp_path / "run")
    epochs = 200  # it will not finish first
    process = start(processes, tmp_path, flags(run.path, workers=workers, epochs=epochs))
    wait_for(run, STEPS + 2, process.is_alive)
    process.terminate()
    process.join()
    out, err = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert process.exitcode == 143, err
    assert_stopped(run, out, err)
    stopped = torch.load(run.checkpoint, weights_only=True)
    assert STEPS < stopped["global_step"] < epochs * STEPS
    twin = RunDirectory(tmp_path / "twin")  # the same, stopped at the same step in another process
    assert stopped["global_step"] == len(losses(run))
    hook = SIGNAL_AT.format(step=stopped["global_step"], callback="StopOnSignal", number=int(signal.SIGTERM))
    other = start(processes, tmp_path, flags(twin.path, workers=2 - workers, epochs=epochs), hook)
    other.join()
    assert other.exitcode == 143
    again = torch.load(twin.checkpoint, weights_only=True)
    assert_equal(again["state_dict"], stopped["state_dict"], "state_dict")
    assert_equal(again["optimizer_states"], stopped["optimizer_states"], "optimizer_states")
    assert records_of(twin) == records_of(run)


@pytest.mark.parametrize(
    ("killed", "saved", "callback", "workers"),
    [
        (2 * STEPS - 1, 2 * STEPS - 2, "StopOnSignal", 2),  # recorded, not saved
        (STEPS + 1, STEPS, "Monitor", 0),  # neither
    ],
)
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    tmp_path: Path,
    processes: ForkServerContext,
    whole: Callable[..., RunDirectory],
    killed: int,
    saved: int,
    callback: str,
    workers: int,
) -> None:
    settings = {"checkpoint_every": 2, "workers": workers}
    expected, run = whole(**settings), RunDirectory(tmp_path / "run")
    hook = SIGNAL_AT.format(step=killed, callback=callback, number=int(signal.SIGKILL))
    process = start(processes, tmp_path, flags(run.path, **settings), hook)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # workers that a server started do not notice
    assert torch.load(run.checkpoint, weights_only=True)["global_step"] == saved
    assert cli.run(["pretrain", "--resume", str(run.path)]) == 0
    assert_same_run(run, expected)


def test_the_installed_command_is_stopped_and_resumed(tmp_path: Path) -> None:
    """All of it once as a user has it: the command, digits, Ctrl-C in the second epoch, --resume, a comparison."""
    stopped, expected = RunDirectory(tmp_path / "stopped"), RunDirectory(tmp_path / "expected")
    settings: dict[str, Any] = {"data": "digits", "batch_size": 128, "workers": 2}
    command = [sys.executable, "-c", "from adco.cli.main import main; main()", *flags(stopped.path, **settings)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(stopped, 13, lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert_stopped(stopped, out, err)
    assert cli.run(["pretrain", "--resume", str(stopped.path)]) == 0
    adco.pretrain(**with_settings(**settings), out=str(expected.path))
    assert_same_run(stopped, expected)


@pytest.mark.fault("SIGTERM or SIGINT to the process group of a run with 0 or 2 workers")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_saves(
    tmp_path: Path,
    processes: ForkServerContext,
    workers: int,
    number: signal.Signals,
    report: Callable[..., None],
) -> None:
    """As docker stop, systemd and scancel send SIGTERM, and a terminal's Ctrl-C sends SIGINT."""
    run = RunDirectory(tmp_path / "run")
    # Epochs of 60 steps: workers end with the last batch of an epoch.
    process = start(processes, tmp_path, flags(run.path, data="digits", workers=workers, epochs=200))
    wait_for(run, STEPS + 2, process.is_alive)
    assert process.pid is not None
    children = descendants(process.pid)
    os.killpg(process.pid, number)
    process.join()
    out, err = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert process.exitcode == 128 + number, err
    assert_stopped(run, out, err)
    report(says=err.splitlines()[-1])
    assert_backbone_of(run, torch.load(run.checkpoint, weights_only=True)["global_step"])
    assert len(children) >= workers
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_the_configuration_holds_what_resuming_needs(whole: Callable[..., RunDirectory]) -> None:
    values = whole().read_config()
    assert to_dict(pretrain_settings(**values)) == values
