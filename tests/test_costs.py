"""What a recipe's runs cost: rows, seeds and devices are counted, and images that are not here are noise."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import program
import tiny
from adco.cli import main as cli
from adco.comparison import costs as module
from adco.comparison.costs import RowCost, costs, count_devices
from adco.comparison.noise import noise
from adco.config.load import pretrain_settings
from adco.data.sources.reading import Reading
from adco.data.sources.registry import FETCHED
from adco.data.workers import WorkerLost
from adco.errors import InputError
from adco.training.rehearsal import Cost
from adco.words import counted

pytestmark = pytest.mark.usefixtures("quick_processes")

SMALL = {"backbone_args": tiny.NETWORK, "hidden": 16, "accelerator": "cpu", "image_size": 32, "workers": 0}


def recipe(path: Path, **values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def measured(path: Path, devices: int | None = None, images: int | None = None) -> list[RowCost]:
    return list(costs(path, devices, images, lambda words: None))


@pytest.mark.slow
def test_rows_seeds_epochs_and_devices_are_counted(tmp_path: Path) -> None:
    """Of images that are not here there is no kNN, so an epoch is its steps: that of one device is half as long."""
    rows = {
        "one": {"method": "simclr", "batch_size": 16, "epochs": 3},
        "two": {"method": "adco", "batch_size": 16, "epochs": 5, "adversaries": 50, "seeds": [4, 5]},
    }
    plan = recipe(tmp_path / "plan.yaml", shared={**SMALL, "data": "gone/"}, seeds=[0], images=1000, rows=rows)
    one, two = measured(plan)
    assert (one.row, one.runs, one.epochs, one.processes) == ("one", 1, 3, 1)
    assert (two.row, two.runs, two.epochs) == ("two", 2, 5)
    assert one.cost.epoch == pytest.approx(one.cost.step * (1000 // 16))
    assert two.seconds == pytest.approx(two.cost.before_first_step + 5 * two.cost.epoch)
    assert two.exchanged == pytest.approx(one.exchanged, rel=0.02)  # the gradients of adversaries are not
    (shared,) = measured(recipe(tmp_path / "run.yaml", **SMALL, **rows["one"], data="gone/"), devices=2, images=2000)
    assert (shared.row, shared.processes) == ("run", 2)
    assert shared.cost.epoch == pytest.approx(shared.cost.step * (2000 // 16))


@pytest.mark.slow
def test_the_devices_of_a_recipe_need_not_be_here(tmp_path: Path) -> None:
    values = {**SMALL, "method": "simclr", "batch_size": 64, "data": "few", "accumulate": 2}
    for given in ({"devices": 8}, {"devices": 4, "num_nodes": 2}):
        (found,) = measured(recipe(tmp_path / "run.yaml", **values, **given))
        assert found.processes == 8
        assert found.device_hours == pytest.approx(8 * found.seconds / 3600)
    (found,) = measured(recipe(tmp_path / "run.yaml", **values, devices=8), devices=2)
    assert found.processes == 2


def test_devices_that_are_no_number_are_those_of_this_machine() -> None:
    settings = pretrain_settings(data="few", accelerator="cpu")
    assert count_devices(settings) == 1
    assert count_devices(pretrain_settings(data="few", accelerator="cpu", num_nodes=3)) == 3
    for devices in ("none", 0):
        with pytest.raises(InputError, match=f"^accelerator cpu with devices {devices} is not available here"):
            count_devices(pretrain_settings(data="few", accelerator="cpu", devices=devices))


def not_measured(*arguments: object) -> RowCost:
    return RowCost("row", 3, 4, 10, Cost(80.0, 0.5, 100.0), 2048.0, 12.5, "cpu (1 thread), precision 32-true")


WRONG: list[tuple[dict[str, object], dict[str, int], str]] = [
    ({}, {}, r"^data gone/ is not on this machine: give --images, the number of its images$"),
    ({}, {"images": 100, "devices": 3}, r"^batch_size 16 must be a multiple of devices x nodes x accumulate, here 3$"),
    ({"accumulate": 4}, {"images": 100, "devices": 8}, r"^batch_size 16 must be a multiple of .*, here 32$"),
    ({"accumulate": 4}, {"images": 100, "devices": 4}, r"^batch_size 16 leaves 1 image .*: it must be at least 32, "),
    ({"data": "few"}, {"images": 100}, r"^images 100 is for data that is not on this machine, but all is here: leave "),
    ({"minutes": 3}, {"images": 100}, r"^minutes 3 is how long the run takes, on any device: adco pretrain --recipe "),
    ({"weights": "run/"}, {"images": 100}, r"^weights run/ is not on this machine: add the backbone to the recipe$"),
    (
        {"channels": 4},
        {"images": 100},
        r"^data gone/ is not .* cannot take its place: they have 1 or 3 channels, not 4",
    ),
]


@pytest.mark.parametrize(("values", "flags", "told"), WRONG)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, values: dict[str, object], flags: dict[str, int], told: str
) -> None:
    run = recipe(tmp_path / "run.yaml", **{**SMALL, "data": "gone/", "batch_size": 16, **values})
    with pytest.raises(InputError, match=told):
        measured(run, **flags)


def test_what_can_be_checked_is_checked_before_a_row_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "in_a_process", not_measured)
    rows = {"one": {"data": "few"}, "two": {"data": "gone/"}}
    plan = recipe(tmp_path / "plan.yaml", shared=SMALL, evaluate_on="few", rows=rows)
    with pytest.raises(InputError, match=r"^data gone/ is not on this machine"):
        next(costs(plan, None, None, lambda words: None))
    assert len(measured(plan, images=100)) == 2


def test_a_named_set_is_downloaded_and_not_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, opened = list[object](), list[str]()
    monkeypatch.setitem(FETCHED, "few", "few.npz")
    monkeypatch.setattr(module, "open_source", opened.append)
    monkeypatch.setattr(module, "in_a_process", lambda *arguments: counts.append(arguments[-1]))
    measured(recipe(tmp_path / "run.yaml", **SMALL, data="few"))
    assert (opened, counts) == (["few"], [None])


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_the_size_and_channels_that_are_asked_for(channels: int) -> None:
    source = noise("gone/", 1000, Reading(channels))
    first, again, other = source.load([0, 256, 999])
    assert first.shape == (375, 500, channels)
    assert (first == again).all()
    assert (first != other).any()
    assert (len(source), source.shorter_side, source.labels, source.name) == (1000, 375, None, "gone/")
    assert 10 < np.std(first.astype(float)) < 100


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_a_row_that_does_not_fit_is_told_in_one_line(error: Exception) -> None:
    def full() -> None:
        with module._one_line_if_memory_is_full():
            raise error

    with pytest.raises(InputError, match=r"^the memory is full: raise accumulate or the number of devices, or lower"):
        full()


def test_a_killed_loader_worker_is_told_in_one_line() -> None:
    line = r"^a loader worker was killed, as when memory is full; raise accumulate or the number of devices, or lower"
    with pytest.raises(WorkerLost, match=line), module._one_line_if_memory_is_full():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^a mistake$"), module._one_line_if_memory_is_full():
        raise RuntimeError("a mistake")


@pytest.mark.parametrize(("stop", "code"), [(InputError("no"), 2), (KeyboardInterrupt(), 130), (None, 0)])
def test_rows_that_were_measured_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop: BaseException | None, code: int
) -> None:
    def two(*arguments: object) -> Iterator[RowCost]:
        yield from (not_measured(), not_measured())
        if stop:
            raise stop

    monkeypatch.setattr(module, "costs", two)
    assert cli.run(["cost", "mine.yaml"]) == code
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.strip().startswith("row ") and "GB" in line]
    assert rows == [["row", "0.5", "s", "2", "min", "10", "18", "min", "3", "4", "3.6", "2.00", "GB"]] * 2
    # 80 + 10 × 100 s, of six runs, on four devices each
    assert "sum of 6 runs: 1 h 48 min one after the other, 7.2 device hours (hours x devices)" in lines
    assert any("exchange of gradients, up to 12.5 MB per step" in line for line in lines)


def start(folder: Path) -> "subprocess.Popen[str]":
    """Start the command with two loader workers and steps of several seconds, and return when it measures a row."""
    slow = {"backbone": "resnet50", "accelerator": "cpu", "workers": 2, "data": "gone/", "batch_size": 64}
    recipe(folder / "slow.yaml", images=1000, rows={"slow": slow, "slower": slow})
    process = subprocess.Popen(
        [sys.executable, "-m", "adco", "cost", "slow.yaml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in the background of a shell
    )
    assert process.stderr
    assert process.stderr.readline() == "row 1 of 2: slow, on 1,000 noise images\n"
    return process


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


def runs(number: int) -> bool:
    """Whether there is such a process, and it is not one that has ended and that nobody has waited for."""
    try:
        return bool(Path(f"/proc/{number}/cmdline").read_bytes())
    except OSError:
        return False


def workers(process: "subprocess.Popen[str]") -> list[int]:
    """The loader workers of the process that measures."""
    return [number for child in program.descendants(process.pid)[:2] for number in program.descendants(child)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_at_once_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C reaches all processes, here while one imports; a SIGTERM only the first, here while one trains."""
    process, imports = start(tmp_path), number == signal.SIGINT
    wait_for(lambda: len(program.descendants(process.pid)) == 2 if imports else len(workers(process)) == 2)
    others = program.descendants(process.pid)
    (os.killpg if imports else os.kill)(process.pid, number)
    said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (128 + number, "", "adco: stopped\n")
    assert not any(map(runs, others))
    assert [path.name for path in tmp_path.iterdir() if path.name != "torchinductor_root"] == ["slow.yaml"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_no_process_outlives_it(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(workers(process)) == 2)
    others = program.descendants(process.pid)
    process.kill()
    wait_for(lambda: not any(map(runs, others)))
    process.communicate()


@pytest.mark.slow
def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = recipe(tmp_path / "mine.yaml", **tiny.SETTINGS, data="digits", batch_size=256, epochs=2)
    assert cli.run(["cost", str(run)]) == 0
    told = capsys.readouterr()
    assert "row 1 of 1: mine" in told.err
    (row,) = (line.split() for line in told.out.splitlines() if line.strip().startswith("mine"))
    assert row[1].replace(".", "").isdigit()
    assert row[-1] == "GB"
    assert "sum of 1 run: " in told.out
    assert f"measured on cpu ({counted(int(os.environ['OMP_NUM_THREADS']), 'thread')}), precision " in told.out
    assert "gradients" not in told.out
